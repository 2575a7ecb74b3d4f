// Which instruction sets the processor has, and which one the kernels use.
//
// Detected once, at the first use. PYMETANER_SIMD=scalar|avx2|avx512|amx|neon in the environment forces one; a set that
// this processor lacks, or that this build was not compiled for, is an error and not a silent fallback.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace pymetaner {

// In ascending order of preference; kernels exist for each, in files of that name.
//   scalar  whatever every processor of the architecture has
//   avx2    AVX2 and FMA
//   avx512  AVX-512 F, BW, VL and VNNI
//   amx     the above and AMX-TILE, AMX-INT8
//   neon    every 64-bit ARM
enum class InstructionSet { scalar, avx2, avx512, amx, neon };

// An instruction set was asked for that is not to be had; Python sees it as a RuntimeError.
class InstructionSetError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The names of those that both the processor and this build have, "scalar" first, the widest last.
std::vector<std::string> instruction_sets();

// The one that the kernels use. Throws InstructionSetError if PYMETANER_SIMD names one that is not to be had.
InstructionSet instruction_set();

// Makes the kernels use the one of this name from now on, in every thread. Throws InstructionSetError likewise.
void use_instruction_set(const std::string& name);

const char* name_of(InstructionSet set);

}  // namespace pymetaner
