// Python's view of the native CPU backend. Addresses and sizes come in as integers and have been checked in Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../common/philox.h"
#include "batch.h"
#include "dispatch.h"
#include "scratch.h"

namespace py = pybind11;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

using Address = uintptr_t;

pld::Logits logits_of(const std::tuple<Address, int, int64_t, int64_t, int64_t>& t) {
  return {at<void>(std::get<0>(t)), pld::DType(std::get<1>(t)), std::get<2>(t), std::get<3>(t), std::get<4>(t)};
}

// (params, shared, lists, history, id_bytes, begins, lengths, padded, prompt_lengths, positions, uniforms)
using RequestsTuple =
    std::tuple<Address, bool, Address, Address, int, Address, Address, bool, Address, Address, Address>;

pld::Requests requests_of(const RequestsTuple& t) {
  return {at<pld::RowParams>(std::get<0>(t)),
          std::get<1>(t),
          at<int32_t>(std::get<2>(t)),
          at<void>(std::get<3>(t)),
          std::get<4>(t),
          at<int64_t>(std::get<5>(t)),
          at<int64_t>(std::get<6>(t)),
          std::get<7>(t),
          at<int64_t>(std::get<8>(t)),
          at<int64_t>(std::get<9>(t)),
          at<uint64_t>(std::get<10>(t))};
}

// Where a step writes; made once per batch size by a sampler, so that a step passes few arguments.
struct PyOutputs : pld::Outputs {
  PyOutputs(Address token_ids, Address kept, Address status, Address logprobs, Address top_ids, Address top_logprobs,
            int mode, int64_t top)
      : pld::Outputs{at<int64_t>(token_ids), at<int64_t>(kept),       at<int32_t>(status), at<float>(logprobs),
                     at<int64_t>(top_ids),   at<float>(top_logprobs), pld::Logprobs(mode), top} {}
};

struct PySlots : pld::Slots {
  PySlots(Address params, Address lists, Address tokens, Address distinct, Address counts, Address lengths,
          Address prompt_lengths, Address num_distinct, Address status, int64_t max_length)
      : pld::Slots{at<pld::RowParams>(params),  at<const int32_t*>(lists),
                   at<int32_t>(tokens),         at<int32_t>(distinct),
                   at<int32_t>(counts),         at<int64_t>(lengths),
                   at<int64_t>(prompt_lengths), at<int64_t>(num_distinct),
                   at<int32_t>(status),         max_length} {}
};

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  using release = py::call_guard<py::gil_scoped_release>;
  py::class_<PyOutputs>(m, "Outputs")
      .def(py::init<Address, Address, Address, Address, Address, Address, int, int64_t>());
  py::class_<PySlots>(m, "Slots")
      .def(py::init<Address, Address, Address, Address, Address, Address, Address, Address, Address, int64_t>());

  m.def(
      "sample",
      [](const std::tuple<Address, int, int64_t, int64_t, int64_t>& logits, const RequestsTuple& requests,
         const PyOutputs& out, int threads) { pld::sample(logits_of(logits), requests_of(requests), out, threads); },
      release());
  m.def(
      "process_logits",
      [](const std::tuple<Address, int, int64_t, int64_t, int64_t>& logits, const RequestsTuple& requests, Address out,
         int64_t out_stride, int threads) {
        pld::process_logits(logits_of(logits), requests_of(requests), at<float>(out), out_stride, threads);
      },
      release());
  m.def(
      "step",
      [](Address logits, int dtype, int64_t rows, int64_t vocab, int64_t stride, const PySlots& state, Address slots,
         Address uniforms, const PyOutputs& out, int threads) {
        pld::step({at<void>(logits), pld::DType(dtype), rows, vocab, stride}, state, at<int64_t>(slots),
                  at<uint64_t>(uniforms), out, threads);
      },
      release());
  m.def(
      "read",
      [](const std::tuple<Address, int, int64_t, int64_t, int64_t>& logits, Address out, int threads) {
        pld::read(logits_of(logits), at<float>(out), threads);
      },
      release());
  m.def(
      "masses",
      [](Address x, int64_t n, float maximum, float scale, Address out) {
        const pld::IeeeArithmetic ieee;
        pld::kernels().masses(at<float>(x), n, maximum, scale, at<uint64_t>(out));
      },
      release());
  m.def("random_bits",
        [](uint64_t seed, uint64_t position, uint64_t stream) { return pld::random_bits(seed, position, stream); });
  m.def("isa", [] { return std::string(pld::kernels().name); });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const pld::RowKernels* k : pld::available_kernels()) names.emplace_back(k->name);
    return names;
  });
  m.def("choose_isa", pld::choose_kernels);
}
