// SPDX-License-Identifier: GPL-2.0-only
/* 5.12: a bio names its block device, possibly a partition, instead of a disk and a number. */
#include <linux/blkdev.h>
struct block_device *probe(struct bio *bio);
struct block_device *probe(struct bio *bio)
{
	return bio->bi_bdev;
}
