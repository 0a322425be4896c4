// SPDX-License-Identifier: GPL-2.0-only
/* Until 6.13: blk_mq_unfreeze_queue takes only the queue. */
#include <linux/blk-mq.h>
void probe(struct request_queue *queue);
void probe(struct request_queue *queue)
{
	blk_mq_unfreeze_queue(queue);
}
