// SPDX-License-Identifier: GPL-2.0-only
/* 5.18: bio_alloc_clone replaces bio_clone_fast. */
#include <linux/blkdev.h>
struct bio *probe(struct block_device *bdev, struct bio *bio, struct bio_set *set);
struct bio *probe(struct block_device *bdev, struct bio *bio, struct bio_set *set)
{
	return bio_alloc_clone(bdev, bio, GFP_NOIO, set);
}
