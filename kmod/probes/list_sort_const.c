// SPDX-License-Identifier: GPL-2.0-only
/* 5.13: list_sort compares through pointers to const. */
#include <linux/list_sort.h>
int probe_compare(void *private, const struct list_head *a, const struct list_head *b);
void probe(struct list_head *list);
int probe_compare(void *private, const struct list_head *a, const struct list_head *b)
{
	return a < b;
}
void probe(struct list_head *list)
{
	list_sort(NULL, list, probe_compare);
}
