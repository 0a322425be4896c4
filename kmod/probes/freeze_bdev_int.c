// SPDX-License-Identifier: GPL-2.0-only
/* 5.11: freeze_bdev returns an error instead of a super block. */
#include <linux/blkdev.h>
#include <linux/fs.h>
int probe(struct block_device *bdev);
int probe(struct block_device *bdev)
{
	return freeze_bdev(bdev);
}
