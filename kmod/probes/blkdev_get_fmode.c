// SPDX-License-Identifier: GPL-2.0-only
/* Until 6.4: blkdev_get_by_dev takes an fmode_t and a holder. */
#include <linux/blkdev.h>
struct block_device *probe(dev_t dev);
struct block_device *probe(dev_t dev)
{
	return blkdev_get_by_dev(dev, FMODE_READ, NULL);
}
