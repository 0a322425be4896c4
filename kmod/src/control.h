/* SPDX-License-Identifier: GPL-2.0-only */
/* What user space asks for: the control device (control.c) and the report (info.c). */
#ifndef COWBIRD_CONTROL_H
#define COWBIRD_CONTROL_H

int cb_control_init(void);
void cb_control_exit(void);
int cb_info_init(void);
void cb_info_exit(void);

#endif
