// SPDX-License-Identifier: GPL-2.0-only
/* 5.18: bio allocation takes the device and the operation. */
#include <linux/blkdev.h>
struct bio *probe(struct block_device *bdev, struct bio_set *set);
struct bio *probe(struct block_device *bdev, struct bio_set *set)
{
	return bio_alloc_bioset(bdev, 1, REQ_OP_READ, GFP_NOIO, set);
}
