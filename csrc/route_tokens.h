// One variant of the router: tokens to logits, scores, expert ids and combine weights. To be included by one file per
// instruction set. Nothing here comes from a std:: template, and all of it is in an anonymous namespace: the linker
// must not take this file's copy of a function for code that runs on any processor.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "route.h"

namespace {

using headgate::pad_to_lanes;
using headgate::RouteCall;

#include "route_vector.h"
#include "route_product.h"

// One token's rows of scratch, each as long as the logits, rounded up to whole vectors.
struct Rows {
  float* bias;
  float* scores;
  float* ranked;
  float* groups;
  float* members;
  float* weights;  // [K]
};

HEADGATE_INLINE Floats round_to(Floats values, int32_t dtype) {
  if (dtype == HEADGATE_FLOAT16) return round_to_float16(values);
  return dtype == HEADGATE_BFLOAT16 ? round_to_bfloat16(values) : values;
}

void fill(float* row, int64_t begin, int64_t end, float value) {
  for (int64_t i = begin; i < end; ++i) row[i] = value;
}

void finish_logits(const RouteCall& call, const float* bias, float* logits) {
  const int32_t dtype = call.router->round_logits ? call.input->x_dtype : int32_t{HEADGATE_FLOAT32};
  for (int64_t i = 0; i < pad_to_lanes(call.router->num_experts); i += kLanes) {
    Floats z = load(logits + i);
    if (bias != nullptr) z = z + load(bias + i);
    store(logits + i, round_to(z, dtype));
  }
}

HEADGATE_INLINE Floats sigmoid(Floats z) {
  const Floats decay = exp_of_negative(z >= 0.0f ? -z : z);
  return (z >= 0.0f ? all(1.0f) : decay) / (decay + 1.0f);
}

HEADGATE_INLINE Floats softplus(Floats z) {
  return log_of_one_plus(exp_of_negative(z >= 0.0f ? -z : z)) + (z >= 0.0f ? z : all(0.0f));
}

// values[i] = exp(values[i] - the largest) / their sum, of the first `count`; those up to whole vectors become 0.
void softmax(float* values, int64_t count) {
  const int64_t padded = pad_to_lanes(count);
  fill(values, count, padded, -INFINITY);
  Floats best = all(-INFINITY);
  for (int64_t i = 0; i < padded; i += kLanes) best = larger(load(values + i), best);
  const float largest = max_lanes(best);
  Floats sum = all(0.0f);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const Floats power = exp_of_negative(load(values + i) - largest);
    store(values + i, power);
    sum = sum + power;
  }
  const float total = sum_lanes(sum);
  for (int64_t i = 0; i < padded; i += kLanes) store(values + i, load(values + i) / total);
}

void compute_scores(const RouteCall& call, const float* logits, float* scores) {
  const headgate_router& router = *call.router;
  const int64_t num_experts = router.num_experts, padded = pad_to_lanes(num_experts);
  const int32_t x_dtype = call.input->x_dtype, wide = HEADGATE_FLOAT32;
  const int32_t inner = router.score_rounding == HEADGATE_ROUND_ALL ? x_dtype : wide;
  const int32_t outer = router.score_rounding == HEADGATE_ROUND_NOTHING ? wide : x_dtype;
  for (int64_t i = 0; i < padded; i += kLanes) store(scores + i, round_to(load(logits + i), inner));
  if (router.score == HEADGATE_SOFTMAX) softmax(scores, num_experts);
  for (int64_t i = 0; i < padded; i += kLanes) {
    Floats z = load(scores + i);
    if (router.score == HEADGATE_SIGMOID) z = sigmoid(z);
    if (router.score == HEADGATE_SQRT_SOFTPLUS) z = square_root(round_to(softplus(z), inner));
    store(scores + i, round_to(z, outer));
  }
}

struct Best {
  int64_t index;
  float value;
};

// Takes the largest value, the first where there are several: in its place is NaN afterwards, which is never found.
// `size` is a whole number of vectors, padded with NaN, and something must be left to take.
Best take_best(float* values, int64_t size) {
  Floats best = all(-INFINITY);
  for (int64_t i = 0; i < size; i += kLanes) best = larger(load(values + i), best);
  const float value = max_lanes(best);
  int64_t i = 0;
  int found = find_lane(load(values), value);
  while (found < 0) {
    i += kLanes;
    found = find_lane(load(values + i), value);
  }
  values[i + found] = NAN;
  return {i + found, value};
}

// Masks the ranked values of experts outside the token's best groups and, where the mask is 0, their scores.
void limit_to_groups(const headgate_router& router, const Rows& rows) {
  const int64_t size = router.num_experts / router.num_groups, padded_groups = pad_to_lanes(router.num_groups);
  const int64_t counted = router.group_counted < size ? router.group_counted : size;
  for (int64_t g = 0; g < router.num_groups; ++g) {
    memcpy(rows.members, rows.ranked + g * size, static_cast<size_t>(size) * sizeof(float));
    fill(rows.members, size, pad_to_lanes(size), NAN);
    float sum = 0.0f;
    for (int64_t i = 0; i < counted; ++i) sum += take_best(rows.members, pad_to_lanes(size)).value;
    rows.groups[g] = sum != sum ? -INFINITY : sum;
  }
  fill(rows.groups, router.num_groups, padded_groups, NAN);
  for (int64_t i = 0; i < router.num_kept; ++i) take_best(rows.groups, padded_groups);
  // What was taken is NaN now.
  for (int64_t g = 0; g < router.num_groups; ++g) {
    if (rows.groups[g] != rows.groups[g]) continue;
    fill(rows.ranked, g * size, (g + 1) * size, router.mask_zero ? 0.0f : -INFINITY);
    if (router.mask_zero) fill(rows.scores, g * size, (g + 1) * size, 0.0f);
  }
}

void choose_experts(const RouteCall& call, const float* logits, const Rows& rows, int64_t* expert_ids) {
  const headgate_router& router = *call.router;
  const float* source = router.select_on_logits ? logits : rows.scores;
  const float* bias = call.input->selection_bias;
  const int64_t num_experts = router.num_experts, padded = pad_to_lanes(num_experts);
  for (int64_t e = 0; e < num_experts; ++e) {
    const float value = bias != nullptr ? source[e] + bias[e] : source[e];
    rows.ranked[e] = value != value ? -INFINITY : value;
  }
  if (router.num_groups > 0) limit_to_groups(router, rows);
  fill(rows.ranked, num_experts, padded, NAN);
  for (int64_t k = 0; k < router.top_k; ++k) expert_ids[k] = take_best(rows.ranked, padded).index;
}

// (sum of values^p)^(1/p); values are not negative.
float compute_norm(const float* values, int64_t count, float order) {
  float total = 0.0f;
  if (order == INFINITY) {
    for (int64_t k = 0; k < count; ++k) total = values[k] <= total ? total : values[k];
    return total;
  }
  for (int64_t k = 0; k < count; ++k) total += order == 1.0f ? values[k] : powf(values[k], order);
  return order == 1.0f ? total : powf(total, 1.0f / order);
}

void weigh_choices(const headgate_router& router, const float* logits, const Rows& rows, const int64_t* expert_ids,
                   float* combine_weights) {
  const int64_t top_k = router.top_k;
  const float* source = router.normalise == HEADGATE_NORMALISE_SOFTMAX ? logits : rows.scores;
  float* weights = rows.weights;
  for (int64_t k = 0; k < top_k; ++k) weights[k] = source[expert_ids[k]];
  if (router.normalise == HEADGATE_NORMALISE_SOFTMAX) softmax(weights, top_k);
  if (router.normalise == HEADGATE_NORMALISE_SUM) {
    float norm = compute_norm(weights, top_k, router.norm_order);
    if (router.clamp_norm) {
      norm = norm < router.epsilon ? router.epsilon : norm;
    } else {
      norm += router.epsilon;
    }
    const float divisor = norm == 0.0f ? 1.0f : norm;
    for (int64_t k = 0; k < top_k; ++k) weights[k] /= divisor;
  }
  for (int64_t k = 0; k < top_k; ++k) combine_weights[k] = weights[k] * router.scale;
}

void route_token(const RouteCall& call, int64_t token, float* logits, const Rows& rows, const float* bias) {
  const headgate_router& router = *call.router;
  const headgate_routing& routing = *call.routing;
  const int64_t num_experts = router.num_experts, first_slot = token * router.top_k;
  const size_t row_bytes = static_cast<size_t>(num_experts) * sizeof(float);
  finish_logits(call, bias, logits);
  memcpy(routing.logits + token * num_experts, logits, row_bytes);
  compute_scores(call, logits, rows.scores);
  memcpy(routing.scores + token * num_experts, rows.scores, row_bytes);
  choose_experts(call, logits, rows, routing.expert_ids + first_slot);
  weigh_choices(router, logits, rows, routing.expert_ids + first_slot, routing.combine_weights + first_slot);
}

void route_tokens(const RouteCall& call, int64_t begin, int64_t end, float* scratch) {
  const headgate_router& router = *call.router;
  const int64_t row = pad_to_lanes(router.num_experts), count = end - begin;
  float* tokens = scratch;
  float* logits = tokens + count * pad_to_lanes(router.d_model);
  float* first = logits + count * row;
  const Rows rows{first, first + row, first + 2 * row, first + 3 * row, first + 4 * row, first + 5 * row};
  const float* bias = nullptr;
  if (call.input->bias != nullptr) {
    copy_to_floats(call.input->bias, call.input->weight_dtype, 0, router.num_experts, rows.bias);
    bias = rows.bias;
  }
  compute_logits(call, begin, end, tokens, logits);
  for (int64_t t = 0; t < count; ++t) route_token(call, begin + t, logits + t * row, rows, bias);
}

}  // namespace
