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

// (data, dtype, rows, vocab, stride)
using LogitsTuple = std::tuple<Address, int, int64_t, int64_t, int64_t>;

pld::Logits logits_of(const LogitsTuple& t) {
  return {at<void>(std::get<0>(t)), pld::DType(std::get<1>(t)), std::get<2>(t), std::get<3>(t), std::get<4>(t)};
}

// The memory of an array or of bytes, while a call lasts; null for None.
class Memory {
 public:
  explicit Memory(py::handle owner) {
    if (!owner.is_none() && PyObject_GetBuffer(owner.ptr(), &view_, PyBUF_SIMPLE)) throw py::error_already_set();
  }
  Memory(const Memory&) = delete;
  ~Memory() {
    if (view_.obj) PyBuffer_Release(&view_);
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(view_.buf);
  }
  template <class T>
  int64_t size() const {
    return view_.len / int64_t(sizeof(T));
  }

 private:
  Py_buffer view_{};
};

// Of a tuple: params, shared, lists, history's address, id_bytes, begins, lengths, padded, prompt_lengths, positions,
// uniforms.
class PyRequests {
 public:
  PyRequests(const py::tuple& t, int64_t rows)
      : params_(t[0]),
        lists_(t[2]),
        begins_(t[5]),
        lengths_(t[6]),
        prompt_lengths_(t[8]),
        positions_(t[9]),
        uniforms_(t[10]),
        all{params_.as<pld::RowParams>(),   t[1].cast<bool>(),       lists_.as<int32_t>(),
            at<void>(t[3].cast<Address>()), t[4].cast<int>(),        begins_.as<int64_t>(),
            lengths_.as<int64_t>(),         t[7].cast<bool>(),       prompt_lengths_.as<int64_t>(),
            positions_.as<int64_t>(),       uniforms_.as<uint64_t>()} {
    int64_t ids = 0;
    for (int64_t row = 0; row < rows; ++row) ids += all.lengths[row];
    if (!all.history && ids > 0) throw py::value_error("history: got a tensor that has no memory here");
  }

 private:
  Memory params_, lists_, begins_, lengths_, prompt_lengths_, positions_, uniforms_;

 public:
  const pld::Requests all;
};

// (logprobs, raw_logprobs, ranks, top_ids, top_logprobs, kind, top, width): what is asked for beside tokens, see
// batch.h.
using Beside = std::tuple<Address, Address, Address, Address, Address, int, int64_t, int64_t>;

pld::Outputs outputs_of(Address token_ids, Address kept, Address status, const py::object& beside) {
  pld::Outputs out{};
  out.token_ids = at<int64_t>(token_ids);
  out.kept = at<int64_t>(kept);
  out.status = at<int32_t>(status);
  if (beside.is_none()) return out;
  const auto [logprobs, raw_logprobs, ranks, top_ids, top_logprobs, kind, top, width] = beside.cast<Beside>();
  out.logprobs = at<float>(logprobs);
  out.raw_logprobs = at<float>(raw_logprobs);
  out.ranks = at<int64_t>(ranks);
  out.top_ids = at<int64_t>(top_ids);
  out.top_logprobs = at<float>(top_logprobs);
  out.kind = kind;
  out.top = top;
  out.width = width;
  return out;
}

// What would be a crash otherwise: a tensor whose memory is elsewhere, or was given back.
void require_memory(Address address, int64_t size, const char* name) {
  if (!address && size > 0) throw py::value_error(std::string(name) + ": got a tensor that has no memory here");
}

void require_memory(const LogitsTuple& logits) {
  require_memory(std::get<0>(logits), std::get<2>(logits) * std::get<3>(logits), "logits");
}

void require_memory(const pld::Outputs& out, int64_t rows) {
  require_memory(Address(out.token_ids), rows, "token_ids");
  require_memory(Address(out.kept), rows, "kept");
  require_memory(Address(out.status), rows, "status");
  if (out.width)
    require_memory(Address(out.top_ids), rows, "top_ids"),
        require_memory(Address(out.top_logprobs), rows, "top_logprobs");
}

struct PySlots : pld::Slots {
  PySlots(Address params, Address lists, Address tokens, Address distinct, Address counts, Address lengths,
          Address prompt_lengths, Address num_distinct, Address status, Address forced, Address loops,
          int64_t max_length)
      : pld::Slots{at<pld::RowParams>(params),  at<const int32_t*>(lists),  at<int32_t>(tokens),
                   at<int32_t>(distinct),       at<int32_t>(counts),        at<int64_t>(lengths),
                   at<int64_t>(prompt_lengths), at<int64_t>(num_distinct),  at<int32_t>(status),
                   at<int32_t*>(forced),        at<pld::LoopState*>(loops), max_length} {}
};

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  using release = py::gil_scoped_release;
  py::class_<PySlots>(m, "Slots")
      .def(py::init<Address, Address, Address, Address, Address, Address, Address, Address, Address, Address, Address,
                    int64_t>());

  m.def("sample", [](const LogitsTuple& logits, const py::tuple& given, Address token_ids, Address kept, Address status,
                     const py::object& beside, int threads) {
    const pld::Outputs out = outputs_of(token_ids, kept, status, beside);
    require_memory(logits);
    require_memory(out, std::get<2>(logits));
    const PyRequests requests(given, std::get<2>(logits));
    const release unlocked;
    pld::sample(logits_of(logits), requests.all, out, threads);
  });
  m.def("process_logits",
        [](const LogitsTuple& logits, const py::tuple& given, Address out, int64_t out_stride, int threads) {
          require_memory(logits);
          require_memory(out, std::get<2>(logits), "out");
          const PyRequests requests(given, std::get<2>(logits));
          const release unlocked;
          pld::process_logits(logits_of(logits), requests.all, at<float>(out), out_stride, threads);
        });
  // Numbers one by one, which are quicker to take than tuples of them: of all calls this one is made for every token.
  m.def("step", [](Address logits, int dtype, int64_t rows, int64_t vocab, int64_t stride, const PySlots& state,
                   Address slots, Address uniforms, Address token_ids, Address kept, Address status,
                   const py::object& beside, Address loop_period, int threads) {
    pld::Outputs out = outputs_of(token_ids, kept, status, beside);
    out.loop_period = at<int32_t>(loop_period);
    require_memory(logits, rows * vocab, "logits");
    require_memory(out, rows);
    const release unlocked;
    pld::step({at<void>(logits), pld::DType(dtype), rows, vocab, stride}, state, at<int64_t>(slots),
              at<uint64_t>(uniforms), out, threads);
  });
  // Of a slot that may be in use, in one call, as Python minds signals between its own instructions: a step never finds
  // half of it. tokens, distinct, counts: int32.
  m.def("place",
        [](const PySlots& state, int64_t slot, py::handle record, py::handle tokens, py::handle distinct,
           py::handle counts, int64_t prompt_length, int32_t status, Address lists, Address forced, Address loops) {
          const Memory params(record), ids(tokens), known(distinct), often(counts);
          pld::place(state, slot,
                     {params.as<pld::RowParams>(), at<int32_t>(lists), ids.as<int32_t>(), known.as<int32_t>(),
                      often.as<int32_t>(), ids.size<int32_t>(), prompt_length, known.size<int32_t>(), status,
                      at<int32_t>(forced), at<pld::LoopState>(loops)});
        });
  m.def(
      "read",
      [](const LogitsTuple& logits, Address out, int threads) {
        pld::read(logits_of(logits), at<float>(out), threads);
      },
      py::call_guard<release>());
  m.def(
      "masses",
      [](Address x, int64_t n, float maximum, float scale, Address out) {
        const pld::IeeeArithmetic ieee;
        pld::kernels().masses(at<float>(x), n, maximum, scale, at<uint64_t>(out));
      },
      py::call_guard<release>());
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
