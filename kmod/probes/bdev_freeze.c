// SPDX-License-Identifier: GPL-2.0-only
/* 6.8: freeze_bdev is named bdev_freeze. */
#include <linux/blkdev.h>
int probe(struct block_device *bdev);
int probe(struct block_device *bdev)
{
	return bdev_freeze(bdev);
}
