#include "cosine_topk/cosine_topk.hpp"

#include <optional>
#include <string>

#include "register.hpp"

namespace py = pybind11;

namespace pymetaner {
namespace {

Rows rows_of(const py::array& array, const char* name) {
    check_array<float>(array, name, 2);
    constexpr auto size = static_cast<py::ssize_t>(sizeof(float));
    const bool contiguous = array.size() == 0 || array.shape(1) == 1 || array.strides(1) == size;
    if (!contiguous || array.strides(0) % size != 0) {
        throw py::value_error(std::string(name) + " has rows that are not contiguous: pass numpy.ascontiguousarray");
    }
    return {static_cast<const float*>(array.data()), array.shape(0), array.shape(1), array.strides(0) / size};
}

py::tuple bound_cosine_topk(const py::array& queries, const py::array& bank, std::int64_t k,
                            const std::optional<py::array>& exclude, int threads) {
    const Rows query_rows = rows_of(queries, "queries");
    const Rows bank_rows = rows_of(bank, "bank");
    if (query_rows.dim != bank_rows.dim) {
        throw py::value_error("queries have " + std::to_string(query_rows.dim) + " dimensions and the bank " +
                              std::to_string(bank_rows.dim) + ": they must agree");
    }
    if (k < 1) throw py::value_error("k is " + std::to_string(k) + ": expected at least 1");
    if (threads < 1) throw py::value_error("threads is " + std::to_string(threads) + ": expected at least 1");
    const std::int64_t* left_out = nullptr;
    if (exclude) {
        check_contiguous<std::int64_t>(*exclude, "exclude", 1);
        if (exclude->shape(0) != query_rows.count) {
            throw py::value_error("exclude has " + std::to_string(exclude->shape(0)) + " elements for " +
                                  std::to_string(query_rows.count) + " queries: give one a query");
        }
        left_out = static_cast<const std::int64_t*>(exclude->data());
    }
    py::array_t<float> scores({query_rows.count, k});
    py::array_t<std::int64_t> indices({query_rows.count, k});
    float* const scores_out = scores.mutable_data();
    std::int64_t* const indices_out = indices.mutable_data();
    {
        const py::gil_scoped_release release;
        cosine_topk(query_rows, bank_rows, left_out, k, threads, scores_out, indices_out);
    }
    return py::make_tuple(scores, indices);
}

}  // namespace

void register_cosine_topk(py::module_& module) {
    module.def("cosine_topk", &bound_cosine_topk, py::arg("queries"), py::arg("bank"), py::arg("k"),
               py::arg("exclude") = py::none(), py::arg("threads") = 1);
}

}  // namespace pymetaner
