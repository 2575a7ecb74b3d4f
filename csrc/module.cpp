// The extension module pymetaner._cpu: buffers in, buffers out, no torch.
#include "register.hpp"

#include "common/instruction_set.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_cpu, module) {
    module.doc() = "The kernels of pymetaner on the CPU.";
    module.attr("__version__") = PYMETANER_VERSION;
    module.attr("compiler") = PYMETANER_COMPILER;
    module.def("instruction_sets", &pymetaner::instruction_sets, "Those that this processor and this build have.");
    module.def("use_instruction_set", &pymetaner::use_instruction_set, py::arg("name"));
    module.def("instruction_set", [] { return pymetaner::name_of(pymetaner::instruction_set()); }, "The one in use.");
    pymetaner::register_cosine_topk(module);
    pymetaner::register_masked_token_loss(module);
}
