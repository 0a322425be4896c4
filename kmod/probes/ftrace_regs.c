// SPDX-License-Identifier: GPL-2.0-only
/* 5.11: ftrace callbacks take struct ftrace_regs. */
#include <linux/ftrace.h>
static void callback(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
		     struct ftrace_regs *fregs)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);

	regs->ip = parent;
}
extern struct ftrace_ops probe;
struct ftrace_ops probe = { .func = callback };
