// SPDX-License-Identifier: MIT
// Replaces a healthy connection between two requests, before its TLS keys are worn out.
#pragma once

#include "netlink/kernel.h"
#include "netlink/sysfs.h"

namespace nbd {

/// Holds new requests back for a moment until the driver has none under way, then ends `old_socket`,
/// which the kernel encrypts, and gives the driver the one socket of `request` instead. A request
/// that the server does not answer before it closes the old connection waits for its timer. Without such a moment the old connection lives on: the caller sees by its
/// own socket whether it was taken. To be called where it may take a second, and for ever if the
/// kernel hangs.
Result<void> renew(int old_socket, const ReconfigureRequest& request, Kernel& kernel,
                   const Sysfs& sysfs);

/// The driver gives a socket it adopts its request timeout as send timeout
/// (nbd_reconnect_socket()); one it does not need it leaves alone, and answers success all the
/// same.
bool was_adopted(int socket);

}  // namespace nbd
