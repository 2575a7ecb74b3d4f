// The one exception that the core throws on purpose.
#pragma once

#include <stdexcept>

namespace pymetaner {

// A value that the kernels cannot work with; Python sees it as a ValueError.
class InvalidInput : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

}  // namespace pymetaner
