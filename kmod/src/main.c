// SPDX-License-Identifier: GPL-2.0-only
/* Cowbird: snapshots of live block devices by copy-on-write. */
#include "cowbird.h"

static int __init cowbird_init(void)
{
	int ret;

	ret = cb_ending_init();
	if (ret)
		return ret;
	ret = cb_snapdisk_init();
	if (ret)
		goto out_ending;
	ret = cb_hook_init();
	if (ret)
		goto out_snapdisk;
	ret = cb_unmount_init();
	if (ret)
		goto out_hook;
	ret = cb_hibernate_init();
	if (ret)
		goto out_unmount;
	ret = cb_save_init();
	if (ret)
		goto out_hibernate;
	ret = cb_info_init();
	if (ret)
		goto out_save;
	ret = cb_control_init();
	if (ret)
		goto out_info;
	cb_resized_init();
#ifdef COWBIRD_MUTANT
	pr_info("MUTANT BUILD (%s): it loses data on purpose, for tests only\n",
		COWBIRD_MUTANT_NAME);
#endif
	return 0;

out_info:
	cb_info_exit();
out_save:
	cb_save_exit();
out_hibernate:
	cb_hibernate_exit();
out_unmount:
	cb_unmount_exit();
out_hook:
	cb_hook_exit();
out_snapdisk:
	cb_snapdisk_exit();
out_ending:
	cb_ending_exit();
	return ret;
}

static void __exit cowbird_exit(void)
{
	/* Snapshots hold a reference to the module: there is none by now. */
	cb_resized_exit();
	cb_control_exit();
	cb_info_exit();
	cb_save_exit();
	cb_hibernate_exit();
	cb_unmount_exit();
	cb_hook_exit();
	cb_snapdisk_exit();
	cb_ending_exit();
}

module_init(cowbird_init);
module_exit(cowbird_exit);

MODULE_DESCRIPTION("Copy-on-write snapshots and changed-block tracking of live block devices");
MODULE_AUTHOR("The Cowbird authors");
MODULE_LICENSE("GPL");
MODULE_VERSION(COWBIRD_VERSION);
#ifdef COWBIRD_MUTANT
MODULE_INFO(cowbird_mutant, COWBIRD_MUTANT_NAME);
#endif
