# What every target of ours is compiled with.
function(pymetaner_target target)
  target_compile_features(${target} PUBLIC cxx_std_17)
  set_target_properties(
    ${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
                         VISIBILITY_INLINES_HIDDEN ON)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /fp:precise $<$<BOOL:${PYMETANER_WERROR}>:/WX>)
    return()
  endif()
  # No contraction and no fast-math: the same source must give the same bits on every machine. Nobody reads the
  # floating-point exception flags, which would keep comparisons out of vector code.
  target_compile_options(
    ${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -ffp-contract=off -fno-trapping-math $<$<CONFIG:Release>:-O3>
                      $<$<BOOL:${PYMETANER_WERROR}>:-Werror>)
  if(PYMETANER_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${PYMETANER_SANITIZE} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${PYMETANER_SANITIZE})
  endif()
endfunction()
