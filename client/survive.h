// SPDX-License-Identifier: MIT
// Keeps the process able to work while the root file system or swap waits for it.
#pragma once

#include "client/base/result.h"

namespace nbd {

/// For --essential: locks memory, declares the process an I/O flusher (Linux 5.6: its allocations
/// never wait for I/O), takes it out of the OOM killer's reach. Call before connecting. The first
/// step the kernel refuses is the error; the others are done all the same.
Result<void> survive();

/// Gives up every capability a running watchdog does not need and the way to get new ones.
/// `foreign_files`: it has to reach sockets or files of other users again, by their paths.
Result<void> drop_privileges(bool foreign_files);

/// The same for a process that only moves bytes between descriptors it has. `locked`: its memory
/// is.
Result<void> drop_all_privileges(bool locked);

/// Marks the process for systemd's final killing spree: '@' as first character of argv[0]
/// (systemd, "Storage Daemons for the Root File System"). Only right inside an initramfs.
void mark_process(char** argv);

/// Whether we run inside an initramfs (/etc/initrd-release exists).
bool in_initramfs();

}  // namespace nbd
