/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The kernel's short names on top of the distribution's UAPI types; BCC's headers speak them. */
#pragma once
#include_next <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
typedef _Bool bool;
