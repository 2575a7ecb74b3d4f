#include "cosine_topk/arguments.hpp"

namespace py = pybind11;

namespace pymetaner {
namespace {
using Array = const py::array&;

py::array_t<float> bound_center(Array rows) {
    const Rows vectors = rows_of(rows, "rows");
    py::array_t<float> center(padded_dim(vectors.dim));
    float* const out = center.mutable_data();
    {
        const py::gil_scoped_release release;
        center_of(vectors, out);
    }
    return center;
}

void bound_encode(Array rows, Array center, Array norms, Array codes, Array terms, int threads) {
    const bool writeable = norms.writeable() && codes.writeable() && terms.writeable();
    if (!writeable) throw py::value_error("norms, codes and terms must be writeable");
    check_threads(threads);
    const Rows vectors = rows_of(rows, "rows");
    const Codes out = codes_of(vectors, center, norms, codes, terms);
    const py::gil_scoped_release release;
    encode(vectors, threads, out);
}

py::tuple bound_search(Array queries, Array bank, Array center, Array norms, Array codes, Array terms, std::int64_t k,
                       const std::optional<py::array>& exclude, int threads) {
    const Rows q = rows_of(queries, "queries"), b = rows_of(bank, "bank");
    const Codes encoded = codes_of(b, center, norms, codes, terms);
    return searched(q, b, k, exclude, threads, [&](auto* left_out, float* scores, std::int64_t* indices) {
        cosine_topk(q, b, encoded, left_out, k, threads, scores, indices);
    });
}

}  // namespace

void register_cosine_topk(py::module_& module) {
    module.def(
        "cosine_topk",
        [](Array queries, Array bank, std::int64_t k, const std::optional<py::array>& exclude, int threads) {
            const Rows q = rows_of(queries, "queries"), b = rows_of(bank, "bank");
            return searched(q, b, k, exclude, threads, [&](auto* left_out, float* scores, std::int64_t* indices) {
                cosine_topk(q, b, left_out, k, threads, scores, indices);
            });
        },
        py::arg("queries"), py::arg("bank"), py::arg("k"), py::arg("exclude") = py::none(), py::arg("threads") = 1);
    module.def("bank_center", &bound_center, py::arg("rows"));
    module.def("encode_bank", &bound_encode, py::arg("rows"), py::arg("center"), py::arg("norms"), py::arg("codes"),
               py::arg("terms"), py::arg("threads") = 1);
    module.def("search_bank", &bound_search, py::arg("queries"), py::arg("bank"), py::arg("center"), py::arg("norms"),
               py::arg("codes"), py::arg("terms"), py::arg("k"), py::arg("exclude") = py::none(),
               py::arg("threads") = 1);
}

}  // namespace pymetaner
