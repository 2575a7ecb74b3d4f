// Which instruction sets the processor has, and which one the kernels use.
#pragma once

#include <string>
#include <vector>

namespace pymetaner {

// The sets that matter to the kernels, narrowest first: "scalar" always, then "avx2", "avx512", or "neon".
std::vector<std::string> instruction_sets();

// The one of them that the kernels use.
std::string instruction_set();

}  // namespace pymetaner
