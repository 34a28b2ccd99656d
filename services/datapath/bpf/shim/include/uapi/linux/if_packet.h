/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* BCC's helpers include this; our programs use nothing of it. */
#pragma once
