// Work on XLA's threads, memory for it, and how it ends.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <tuple>
#include <utility>

#include "xla/ffi/api/ffi.h"

extern "C" {  // of OpenMP, which oneDNN asks for the number of threads; its header is not always installed
int omp_get_max_threads(void);
void omp_set_num_threads(int);
}

namespace flaxarch {

namespace ffi = xla::ffi;

// A piece of memory for the time of a task or call. Pieces are kept for the next ones, for fresh ones cost a
// page fault every 4 KiB.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    if (bytes == 0) return;
    {
      std::lock_guard<std::mutex> lock(kept().mutex);
      auto& pieces = kept().pieces;
      auto fit = pieces.lower_bound(bytes);
      if (fit != pieces.end() && fit->first <= 4 * bytes) {
        std::tie(bytes_, data_) = *fit;
        kept().bytes -= bytes_;
        pieces.erase(fit);
        return;
      }
    }
    bytes_ = (bytes + 4095) / 4096 * 4096;
    data_ = std::aligned_alloc(4096, bytes_);
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() {
    if (data_ == nullptr) return;
    std::lock_guard<std::mutex> lock(kept().mutex);
    if (kept().bytes + bytes_ > kMostBytes) {  // of shapes that may never come back
      for (const auto& [bytes, data] : kept().pieces) std::free(data);
      kept().pieces.clear();
      kept().bytes = 0;
    }
    kept().pieces.emplace(bytes_, data_);
    kept().bytes += bytes_;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* get() const { return static_cast<char*>(data_); }

 private:
  static constexpr size_t kMostBytes = size_t{256} << 20;
  struct Kept {
    std::mutex mutex;
    std::multimap<size_t, void*> pieces;
    size_t bytes = 0;
  };
  static Kept& kept() {
    static auto* it = new Kept;  // never destroyed: it outlives all threads
    return *it;
  }
  size_t bytes_ = 0;
  void* data_ = nullptr;
};

// While it lives, oneDNN uses no thread but this one.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  int before_;
};

// Runs task(0), ..., task(count - 1) at once, and `last` after them; the future is ready when that is done.
ffi::Future in_parallel(ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> task,
                        std::function<void()> last = nullptr) {
  struct Job {
    std::function<void(int64_t)> task;
    std::function<void()> last;
    std::atomic<int64_t> left;
    ffi::Promise promise;
    std::mutex mutex;
    std::string error;

    void attempt(const std::function<void()>& step) {
      std::string what;
      try {
        OneThread one;
        step();
        return;
      } catch (const std::exception& e) {
        what = e.what();
      } catch (...) {
        what = "unknown error";
      }
      std::lock_guard<std::mutex> lock(mutex);
      if (error.empty()) error = "flaxarch's CPU kernel failed: " + what;
    }

    void run(int64_t i) {
      attempt([&] { task(i); });
      if (left.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
      if (last && error.empty()) attempt(last);
      task = nullptr;  // frees what they hold before anyone is told
      last = nullptr;
      if (error.empty()) {
        promise.SetAvailable();
      } else {
        promise.SetError(ffi::Error(ffi::ErrorCode::kInternal, error));
      }
    }
  };
  auto job = std::make_shared<Job>();
  job->task = std::move(task);
  job->last = std::move(last);
  job->left = count;
  ffi::Future future(job->promise);
  for (int64_t i = 0; i < count; ++i) pool.Schedule([job, i] { job->run(i); });
  return future;
}

ffi::Future ready() {
  ffi::Promise promise;
  ffi::Future future(promise);
  promise.SetAvailable();
  return future;
}

ffi::Future failed(const std::string& what) {
  ffi::Promise promise;
  ffi::Future future(promise);
  promise.SetError(ffi::Error(ffi::ErrorCode::kInvalidArgument, what));
  return future;
}

}  // namespace flaxarch
