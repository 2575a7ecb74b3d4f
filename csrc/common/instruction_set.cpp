#include "common/instruction_set.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>

#if defined(PYMETANER_AMX) && !defined(PYMETANER_EMULATED_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pymetaner {
namespace {

constexpr InstructionSet kAll[] = {InstructionSet::scalar, InstructionSet::avx2, InstructionSet::avx512,
                                   InstructionSet::amx, InstructionSet::neon};

#if defined(PYMETANER_AMX) && !defined(PYMETANER_EMULATED_AMX)
// Whether the processor has AMX with 8-bit integers, and Linux lets this process use it: tiles are so large that a
// process has to ask for them.
bool has_amx() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
    constexpr unsigned kTile = 1U << 24, kInt8 = 1U << 25;
    if ((edx & kTile) == 0 || (edx & kInt8) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

bool available(InstructionSet set) {
    switch (set) {
        case InstructionSet::scalar:
            return true;
#if defined(PYMETANER_AVX2)
        case InstructionSet::avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(PYMETANER_AVX512)
        case InstructionSet::avx512:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
                   __builtin_cpu_supports("fma");
#endif
#if defined(PYMETANER_EMULATED_AMX)
        case InstructionSet::amx:
            return true;
#elif defined(PYMETANER_AMX)
        case InstructionSet::amx:
            return available(InstructionSet::avx512) && has_amx();
#endif
#if defined(PYMETANER_NEON)
        case InstructionSet::neon:
            return true;
#endif
        default:
            return false;
    }
}

const std::vector<InstructionSet>& detected() {
    static const std::vector<InstructionSet> sets = [] {
        std::vector<InstructionSet> found;
        std::copy_if(std::begin(kAll), std::end(kAll), std::back_inserter(found), available);
        return found;
    }();
    return sets;
}

InstructionSet parsed(const std::string& name) {
    for (const InstructionSet set : detected()) {
        if (name == name_of(set)) return set;
    }
    std::string have;
    for (const std::string& each : instruction_sets()) have += (have.empty() ? "" : ", ") + each;
    throw InstructionSetError("the instruction set '" + name + "' was asked for: this processor and this build have " +
                              have + "; set PYMETANER_SIMD to one of them, or leave it unset for the widest");
}

std::atomic<const InstructionSet*> chosen{nullptr};

}  // namespace

const char* name_of(InstructionSet set) {
    switch (set) {
        case InstructionSet::avx2:
            return "avx2";
        case InstructionSet::avx512:
            return "avx512";
        case InstructionSet::amx:
            return "amx";
        case InstructionSet::neon:
            return "neon";
        default:
            return "scalar";
    }
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet set : detected()) names.emplace_back(name_of(set));
    return names;
}

InstructionSet instruction_set() {
    if (const InstructionSet* const set = chosen.load(std::memory_order_relaxed)) return *set;
    const char* const forced = std::getenv("PYMETANER_SIMD");
    if (forced != nullptr && *forced != '\0') {
        use_instruction_set(forced);
    } else {
        use_instruction_set(name_of(detected().back()));
    }
    return *chosen.load(std::memory_order_relaxed);
}

void use_instruction_set(const std::string& name) {
    const InstructionSet set = parsed(name);
    chosen.store(std::find(std::begin(kAll), std::end(kAll), set), std::memory_order_relaxed);
}

}  // namespace pymetaner
