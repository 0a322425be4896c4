// SPDX-License-Identifier: GPL-2.0-only
/* Must compile everywhere: what every other probe includes. */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/blk-mq.h>
#include <linux/ftrace.h>
#include <linux/highmem.h>
sector_t probe(struct bio *bio);
sector_t probe(struct bio *bio)
{
	return bio->bi_iter.bi_sector;
}
