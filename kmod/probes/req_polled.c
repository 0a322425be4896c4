// SPDX-License-Identifier: GPL-2.0-only
/* 5.16: polled bios are REQ_POLLED, formerly REQ_HIPRI. */
#include <linux/blk_types.h>
unsigned int probe(void);
unsigned int probe(void)
{
	return REQ_POLLED;
}
