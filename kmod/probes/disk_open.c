// SPDX-License-Identifier: GPL-2.0-only
/* 6.5: block devices are opened by disk and blk_mode_t. */
#include <linux/blkdev.h>
static int open(struct gendisk *disk, blk_mode_t mode)
{
	return 0;
}
extern const struct block_device_operations probe;
const struct block_device_operations probe = { .open = open };
