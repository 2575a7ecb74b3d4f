#include "cosine_topk/arguments.hpp"

namespace py = pybind11;

namespace pymetaner {

Rows rows_of(const py::array& array, const char* name) {
    check_array<float>(array, name, 2);
    constexpr auto size = static_cast<py::ssize_t>(sizeof(float));
    const bool contiguous = array.size() == 0 || array.shape(1) == 1 || array.strides(1) == size;
    if (!contiguous || array.strides(0) % size != 0) {
        throw py::value_error(std::string(name) + " has rows that are not contiguous: pass numpy.ascontiguousarray");
    }
    return {static_cast<const float*>(array.data()), array.shape(0), array.shape(1), array.strides(0) / size};
}

py::tuple searched(const Rows& queries, const Rows& bank, std::int64_t k, const std::optional<py::array>& exclude,
                   int threads, const SearchFunction& search) {
    if (queries.dim != bank.dim) {
        throw py::value_error("queries have " + std::to_string(queries.dim) + " dimensions and the bank " +
                              std::to_string(bank.dim) + ": they must agree");
    }
    if (k < 1) throw py::value_error("k is " + std::to_string(k) + ": expected at least 1");
    check_threads(threads);
    const std::int64_t* left_out = nullptr;
    if (exclude) {
        check_contiguous<std::int64_t>(*exclude, "exclude", 1);
        check_length(*exclude, "exclude", queries.count);
        left_out = static_cast<const std::int64_t*>(exclude->data());
    }
    py::array_t<float> scores({queries.count, k});
    py::array_t<std::int64_t> indices({queries.count, k});
    float* const scores_out = scores.mutable_data();
    std::int64_t* const indices_out = indices.mutable_data();
    {
        const py::gil_scoped_release release;
        search(left_out, scores_out, indices_out);
    }
    return py::make_tuple(scores, indices);
}

void register_cosine_topk(py::module_& module) {
    module.def(
        "cosine_topk",
        [](const py::array& queries, const py::array& bank, std::int64_t k, const std::optional<py::array>& exclude,
           int threads) {
            const Rows q = rows_of(queries, "queries"), b = rows_of(bank, "bank");
            return searched(q, b, k, exclude, threads, [&](auto* left_out, float* scores, std::int64_t* indices) {
                cosine_topk(q, b, left_out, k, threads, scores, indices);
            });
        },
        py::arg("queries"), py::arg("bank"), py::arg("k"), py::arg("exclude") = py::none(), py::arg("threads") = 1);
    register_encoded_bank(module);
}

}  // namespace pymetaner
