// What oneDNN has made ready for a convolution or one of its gradients.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "tasks.h"

namespace flaxarch {

using dnnl::memory;
using Dims = memory::dims;

enum Kind : int64_t { kForward, kImageGradient, kKernelGradient };

struct Conv {
  Kind kind;
  memory::data_type type;
  int64_t images, height, width, channels;  // of x
  int64_t out_height, out_width, features;  // of y
  int64_t window_height, window_width;      // of w
  int64_t stride_y, stride_x, top, bottom, left, right, dilation_y, dilation_x, groups;

  std::vector<int64_t> key() const {
    return {kind,         static_cast<int64_t>(type),
            images,       height,
            width,        channels,
            out_height,   out_width,
            features,     window_height,
            window_width, stride_y,
            stride_x,     top,
            bottom,       left,
            right,        dilation_y,
            dilation_x,   groups};
  }
  int64_t x_image() const { return height * width * channels; }
  int64_t y_image() const { return out_height * out_width * features; }
  int64_t w_size() const { return window_height * window_width * channels / groups * features; }
};

// A convolution that oneDNN has made ready for one shape, to be run by any number of threads.
struct Plan {
  dnnl::primitive conv, reorder;
  memory::desc x, w, y;  // w: in the layout that the convolution wants
  memory::desc hwio;     // and in ours
  memory::desc scratchpad, reorder_scratchpad;
  bool reorders = false;
  int64_t block = 0;  // of features, whose rows are what is packed together; 0: the layout is another
};

// How many features the layout of a kernel keeps together, where it is just that; otherwise 0.
int64_t block_of(const memory::desc& w) {
  const bool blocked = w.get_dims().size() == 4 && w.get_inner_nblks() == 1 && w.get_inner_idxs()[0] == 0 &&
                       w.get_data_type() == memory::data_type::f32;
  return blocked ? w.get_inner_blks()[0] : 0;
}

dnnl::engine& engine() {
  static auto* it = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *it;
}

Plan make_plan(const Conv& c) {
  using tag = memory::format_tag;
  using type = memory::data_type;
  const auto prop = dnnl::prop_kind::forward_training;
  const auto algorithm = dnnl::algorithm::convolution_direct;
  Plan plan;
  plan.x = memory::desc({c.images, c.channels, c.height, c.width}, c.type, tag::nhwc);
  plan.y = memory::desc({c.images, c.features, c.out_height, c.out_width}, c.type, tag::nhwc);
  // sums of several images' gradients are added up in float32, whatever the arrays hold
  const type w_type = c.kind == kKernelGradient ? type::f32 : c.type;
  const int64_t inputs = c.channels / c.groups, outputs = c.features / c.groups;
  const int64_t row = c.window_width * inputs * c.features, column = inputs * c.features;
  Dims w_dims = {outputs, inputs, c.window_height, c.window_width}, w_strides = {1, c.features, row, column};
  if (c.groups > 1) {
    w_dims.insert(w_dims.begin(), c.groups);
    w_strides.insert(w_strides.begin(), outputs);
  }
  plan.hwio = memory::desc(w_dims, w_type, w_strides);
  const memory::desc w_any(w_dims, w_type, tag::any);
  const Dims strides = {c.stride_y, c.stride_x}, dilation = {c.dilation_y - 1, c.dilation_x - 1};
  const Dims before = {c.top, c.left}, after = {c.bottom, c.right};
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::convolution_forward::primitive_desc forward(
      engine(), prop, algorithm, plan.x, c.kind == kForward ? w_any : memory::desc(w_dims, c.type, tag::any),
      plan.y, strides, dilation, before, after, attributes);
  auto take = [&](const auto& found, const memory::desc& w) {
    plan.w = w;
    plan.scratchpad = found.scratchpad_desc();
  };
  if (c.kind == kForward) {
    plan.conv = dnnl::convolution_forward(forward);
    take(forward, forward.weights_desc());
  } else if (c.kind == kImageGradient) {
    const dnnl::convolution_backward_data::primitive_desc found(
        engine(), algorithm, plan.x, w_any, plan.y, strides, dilation, before, after, forward, attributes);
    plan.conv = dnnl::convolution_backward_data(found);
    take(found, found.weights_desc());
  } else {
    const dnnl::convolution_backward_weights::primitive_desc found(
        engine(), algorithm, plan.x, w_any, plan.y, strides, dilation, before, after, forward, attributes);
    plan.conv = dnnl::convolution_backward_weights(found);
    take(found, found.diff_weights_desc());
  }
  plan.reorders = plan.w != plan.hwio;
  if (plan.reorders) {
    const bool out = c.kind == kKernelGradient;
    const dnnl::reorder::primitive_desc reorder(engine(), out ? plan.w : plan.hwio, engine(),
                                                out ? plan.hwio : plan.w, attributes);
    plan.reorder = dnnl::reorder(reorder);
    plan.reorder_scratchpad = reorder.scratchpad_desc();
    plan.block = out ? 0 : block_of(plan.w);
  }
  return plan;
}

constexpr size_t kMostPlans = 1024;

// The plans of the shapes met last: making one takes milliseconds.
std::shared_ptr<const Plan> plan_of(const Conv& c) {
  static auto* mutex = new std::mutex;
  static auto* plans = new std::map<std::vector<int64_t>, std::shared_ptr<const Plan>>;
  const auto key = c.key();
  std::lock_guard<std::mutex> lock(*mutex);
  auto found = plans->find(key);
  if (found != plans->end()) return found->second;
  OneThread one;
  auto plan = std::make_shared<const Plan>(make_plan(c));
  if (plans->size() >= kMostPlans) plans->clear();
  plans->emplace(key, plan);
  return plan;
}

using Arguments = std::unordered_map<int, memory>;

// What a plan's convolution is executed with, kept by each thread: to make it anew takes allocations, which
// are felt in small convolutions where all threads share a heap.
Arguments& arguments_of(const std::shared_ptr<const Plan>& plan) {
  static thread_local std::map<std::shared_ptr<const Plan>, Arguments> kept;
  const auto found = kept.find(plan);
  if (found != kept.end()) return found->second;
  if (kept.size() >= kMostPlans) kept.clear();
  return kept[plan];
}

void execute(const dnnl::primitive& primitive, const Arguments& args) {
  static thread_local dnnl::stream stream(engine());
  primitive.execute(stream, args);
  stream.wait();
}

memory at(const memory::desc& desc, void* data) { return memory(desc, engine(), data); }

// From our layout of the kernel to the plan's, or back for its gradient.
void reorder(const Plan& plan, const memory& from, const memory& to) {
  const Scratch scratch(plan.reorder_scratchpad.get_size());
  execute(plan.reorder, {{DNNL_ARG_FROM, from},
                         {DNNL_ARG_TO, to},
                         {DNNL_ARG_SCRATCHPAD, at(plan.reorder_scratchpad, scratch.get())}});
}

}  // namespace flaxarch
