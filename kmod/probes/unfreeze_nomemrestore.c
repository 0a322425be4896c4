// SPDX-License-Identifier: GPL-2.0-only
/* 6.14: the variant of blk_mq_unfreeze_queue without memory flags. */
#include <linux/blk-mq.h>
void probe(struct request_queue *queue);
void probe(struct request_queue *queue)
{
	blk_mq_unfreeze_queue_nomemrestore(queue);
}
