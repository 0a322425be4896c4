// SPDX-License-Identifier: GPL-2.0-only
/* Until 5.10: a callback declares that it handles recursion. */
#include <linux/ftrace.h>
unsigned long probe(void);
unsigned long probe(void)
{
	return FTRACE_OPS_FL_RECURSION_SAFE;
}
