// The extension module pymetaner._cuda: pointers into device memory and a stream in, kernels launched, no torch. What
// calls it, pymetaner/ops/cuda.py, allocates everything and checks shapes and types.
#include <pybind11/pybind11.h>

#include "cosine_topk/cuda.hpp"
#include "masked_token_loss/cuda.hpp"

namespace py = pybind11;

namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// (rows, count, dim, norms, copy)
pymetaner::CudaRows rows_of(const py::tuple& rows) {
    const auto at = [&](std::size_t i) { return rows[i].cast<std::uintptr_t>(); };
    return {pointer<const float>(at(0)), rows[1].cast<std::int64_t>(), rows[2].cast<std::int64_t>(),
            pointer<double>(at(3)), pointer<void>(at(4))};
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "The kernels of pymetaner on CUDA.";
    module.attr("__version__") = PYMETANER_VERSION;
    module.attr("max_k") = pymetaner::kCudaMaxK;
    module.attr("max_classes") = pymetaner::kCudaMaxClasses;
    module.attr("tile") = pymetaner::kCudaTile;
    module.attr("step") = pymetaner::kCudaStep;
    module.def("error", &pymetaner::cuda_error);
    module.def("plan", [](std::int64_t queries, std::int64_t bank, std::int64_t dim) {
        const pymetaner::CudaPlan plan = pymetaner::cuda_plan(queries, bank, dim);
        return py::make_tuple(plan.few, plan.group, plan.groups, plan.batch, plan.bytes);
    });
    module.def("encode",
               [](const py::tuple& rows, std::uintptr_t stream) { pymetaner::cuda_encode(rows_of(rows), stream); });
    module.def("cosine_topk", [](std::uintptr_t queries, std::int64_t count, const py::tuple& bank,
                                 std::uintptr_t exclude, std::int64_t k, std::uintptr_t workspace,
                                 std::uintptr_t scores, std::uintptr_t indices, std::uintptr_t stream) {
        pymetaner::cuda_cosine_topk(
            {pointer<const float>(queries), count, rows_of(bank), pointer<const std::int64_t>(exclude), k,
             pointer<void>(workspace), pointer<float>(scores), pointer<std::int64_t>(indices)},
            stream);
    });
    module.def("masked_token_loss",
               [](std::uintptr_t logits, int dtype, std::uintptr_t labels, std::int64_t sentences, std::int64_t tokens,
                  std::int64_t classes, float lambda_max, std::int64_t ignore_index, std::uintptr_t loss,
                  std::uintptr_t gradient, std::uintptr_t stream) {
                   pymetaner::cuda_masked_token_loss(
                       {pointer<const void>(logits), dtype, pointer<const std::int64_t>(labels), sentences, tokens,
                        classes, lambda_max, ignore_index, pointer<float>(loss), pointer<float>(gradient)},
                       stream);
               });
}
