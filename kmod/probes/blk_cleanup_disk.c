// SPDX-License-Identifier: GPL-2.0-only
/* 5.14 to 5.19: a disk and its queue are released together, by this. */
#include <linux/blkdev.h>
void probe(struct gendisk *disk);
void probe(struct gendisk *disk)
{
	blk_cleanup_disk(disk);
}
