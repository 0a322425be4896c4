// SPDX-License-Identifier: GPL-2.0-only
/* Must compile nowhere. */
#include <linux/bio.h>
int probe(struct bio *bio);
int probe(struct bio *bio)
{
	return bio->a_field_that_no_kernel_has;
}
