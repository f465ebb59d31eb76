// SPDX-License-Identifier: MIT
// A secret takes over what it is made of and is gone from where it was.
#include "client/base/secret.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

TEST(Secret, WipesTheTextItIsMadeOf) {
    std::string text(100, 'k');  // longer than what a string keeps within itself
    const char* const was = text.data();
    const Secret secret(std::move(text));
    EXPECT_EQ(secret.text(), std::string(100, 'k'));
    EXPECT_EQ(was[0], '\0');
    EXPECT_EQ(was[99], '\0');
}

TEST(Secret, Moves) {
    Secret first(std::string("one"));
    Secret second(std::move(first));
    EXPECT_EQ(second.text(), "one");
    Secret third(std::string("three"));
    third = std::move(second);
    EXPECT_EQ(third.text(), "one");
    EXPECT_TRUE(Secret().empty());
    EXPECT_EQ(Secret(3).size(), 3U);
}

}  // namespace
}  // namespace nbd
