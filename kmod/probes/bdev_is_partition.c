// SPDX-License-Identifier: GPL-2.0-only
/* 5.12: bdev_is_partition, and BIO_REMAPPED marks a bio that was moved to its disk. */
#include <linux/blkdev.h>
bool probe(struct bio *bio);
bool probe(struct bio *bio)
{
	return bdev_is_partition(bio->bi_bdev) && !bio_flagged(bio, BIO_REMAPPED);
}
