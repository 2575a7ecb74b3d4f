#include "common/instruction_set.hpp"

namespace pymetaner {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> sets{"scalar"};
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.emplace_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        sets.emplace_back("avx512");
    }
#elif defined(__aarch64__)
    sets.emplace_back("neon");
#endif
    return sets;
}

// One source for every processor, which the compiler turns into code for the oldest of its kind.
std::string instruction_set() {
    return "scalar";
}

}  // namespace pymetaner
