# The second extension module, pymetaner._cuda, where nvcc is found and works; the package is whole without it.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(PYMETANER_CUDA STREQUAL ON)
    message(FATAL_ERROR "PYMETANER_CUDA is ON and there is no working nvcc: put it on the path, or set CUDACXX")
  endif()
  message(STATUS "No nvcc: without pymetaner._cuda")
  return()
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
endif()
enable_language(CUDA)

pybind11_add_module(_cuda MODULE NO_EXTRAS csrc/cuda_module.cpp)
target_sources(_cuda PRIVATE csrc/cosine_topk/cuda.cu csrc/cosine_topk/cuda_screen.cu csrc/masked_token_loss/cuda.cu)
target_include_directories(_cuda PRIVATE csrc)
target_compile_definitions(_cuda PRIVATE PYMETANER_VERSION="${SKBUILD_PROJECT_VERSION_FULL}")
target_compile_features(_cuda PRIVATE cxx_std_17 cuda_std_17)
# The runtime goes in, so that only a driver is needed, and whichever CUDA torch was built with does not matter.
set_target_properties(_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_EXTENSIONS OFF CXX_EXTENSIONS OFF)
# No contraction: exact scores have the bits of the CPU's.
target_compile_options(
  _cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -Xcompiler=-Wall,-Wextra>
                $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow $<$<BOOL:${PYMETANER_WERROR}>:-Werror>>
                $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${PYMETANER_WERROR}>>:-Werror=all-warnings>)
install(TARGETS _cuda LIBRARY DESTINATION pymetaner)
