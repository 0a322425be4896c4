// SPDX-License-Identifier: GPL-2.0-only
/* 5.16: the submit_bio operation returns nothing. */
#include <linux/blkdev.h>
static void submit(struct bio *bio)
{
}
extern const struct block_device_operations probe;
const struct block_device_operations probe = { .submit_bio = submit };
