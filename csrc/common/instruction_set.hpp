// Which instruction sets the processor has.
#pragma once

#include <string>
#include <vector>

namespace pymetaner {

// The sets that matter to the kernels, narrowest first: "scalar" always, then "avx2", "avx512", or "neon".
std::vector<std::string> instruction_sets();

}  // namespace pymetaner
