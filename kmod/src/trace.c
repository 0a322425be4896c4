// SPDX-License-Identifier: GPL-2.0-only
/* The one place where the trace events are defined; see cowbird_trace.h. */
#define CREATE_TRACE_POINTS
#include "cowbird_trace.h"
