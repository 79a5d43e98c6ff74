// Python's view of the CUDA backend, and of the same source on threads. Addresses and sizes come in as integers and
// have been checked in Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "launch.h"

namespace py = pybind11;

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

py::object sentence(const std::string& text) {
  if (text.empty()) return py::none();
  return py::str(text);
}

void step(int device, Address stream, Address logits, int dtype, int64_t rows, int64_t vocab, int64_t stride,
          Address slots, Address table, Address uniforms, Address outputs, Address scores, int64_t scores_stride,
          Address stats, Address workspace, int flags) {
  pld::launch(device, stream,
              {at<void>(logits), pld::DType(dtype), rows, vocab, stride, at<int64_t>(slots), at<pld::Request>(table),
               at<uint64_t>(uniforms), at<int64_t>(outputs), at<float>(scores), scores_stride, at<double>(stats),
               at<float>(workspace), flags});
}

// (stage, ns of a common clock, cycles) of each row of the last launch; nothing in a build without stamps.
std::vector<std::vector<std::tuple<std::string, uint64_t, uint64_t>>> stamps(int device, int64_t rows) {
  const std::vector<pld::Stamp> found = pld::read_stamps(device, rows);
  std::vector<std::vector<std::tuple<std::string, uint64_t, uint64_t>>> result(found.size() / pld::kStages);
  for (size_t at = 0; at < found.size(); ++at)
    result[at / pld::kStages].emplace_back(pld::kStageNames[at % pld::kStages], found[at].nanoseconds,
                                           found[at].cycles);
  return result;
}

}  // namespace

#ifdef PLD_ON_THREADS
namespace pld {
extern bool on_fibers;  // launch_on_threads.cpp
extern std::atomic<int64_t> streamed_rows, left_rows;
}  // namespace pld
#endif

PYBIND11_MODULE(PLD_MODULE, m) {
#ifdef PLD_ON_THREADS
  m.def("choose_fibers", [](bool fibers) { return std::exchange(pld::on_fibers, fibers); });
  m.def("streamed", [] { return std::pair(pld::streamed_rows.exchange(0), pld::left_rows.exchange(0)); });
#endif
  m.def("why_not", [] { return sentence(pld::why_not()); });
  m.def("serves", [](int device) { return sentence(pld::why_not(device)); });
  m.def("device_name", pld::device_name);
  m.def("prepare", pld::prepare);
  m.def("workspace_floats", pld::workspace_floats);
  m.def("choose_blocks", pld::choose_blocks);
  m.def("choose_streaming", pld::choose_streaming);
  m.def("stamps", stamps);
  m.def("step", step, py::call_guard<py::gil_scoped_release>());
}
