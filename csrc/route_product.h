// The router's matrix product: a few weight rows times a few tokens at a time, their sums in registers. To be
// included inside an anonymous namespace, after route_vector.h.

// Tokens and weight rows whose sums fit the registers together (32 for AVX-512, 16 elsewhere).
constexpr int kTileTokens = kLanes == 16 ? 6 : 3;
constexpr int kTileRows = 4;
// Rows for one or two tokens: as many sums as hide a multiply-add's latency.
constexpr int kTallRows = kLanes == 16 ? 8 : kTileRows;
static_assert(kTallRows % kTileRows == 0, "a tall tile is made of whole tiles");

// sums[t * sums_stride + r] = weight row r . token t. Every sum adds up its products in the same order, whatever the
// tile: equal rows and equal tokens give equal sums.
template <typename Element, int rows, int num_tokens>
HEADGATE_INLINE void multiply_tile(const Element* weight, int64_t d_model, const float* tokens, float* sums,
                                   int64_t sums_stride) {
  const int64_t token_stride = pad_to_lanes(d_model);
  Floats total[rows][num_tokens];
  for (int r = 0; r < rows; ++r) {
    // Not `= {}`, which GCC 12 does in memory.
    for (int t = 0; t < num_tokens; ++t) total[r][t] = all(0.0f);
  }
  int64_t i = 0;
  for (; i + kLanes <= d_model; i += kLanes) {
    Floats x[num_tokens];
    for (int t = 0; t < num_tokens; ++t) x[t] = load(tokens + t * token_stride + i);
    for (int r = 0; r < rows; ++r) {
      const Floats w = load(weight + r * d_model + i);
      for (int t = 0; t < num_tokens; ++t) total[r][t] = multiply_add(w, x[t], total[r][t]);
    }
  }
  if (i < d_model) {
    for (int r = 0; r < rows; ++r) {
      const Floats w = load_part(weight + r * d_model + i, d_model - i);
      for (int t = 0; t < num_tokens; ++t) {
        total[r][t] = multiply_add(w, load(tokens + t * token_stride + i), total[r][t]);
      }
    }
  }
  for (int t = 0; t < num_tokens; ++t) {
    for (int r = 0; r < rows; ++r) sums[t * sums_stride + r] = sum_lanes(total[r][t]);
  }
}

template <typename Element, int num_tokens>
void multiply_rows(const Element* weight, int64_t d_model, const float* tokens, int64_t rows, float* sums,
                   int64_t sums_stride) {
  constexpr int kRows = num_tokens <= 2 ? kTallRows : kTileRows;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    multiply_tile<Element, kRows, num_tokens>(weight + r * d_model, d_model, tokens, sums + r, sums_stride);
  }
  for (; r < rows; ++r) {
    multiply_tile<Element, 1, num_tokens>(weight + r * d_model, d_model, tokens, sums + r, sums_stride);
  }
}

// Multiplies fewer tokens than a full tile has.
template <typename Element, int num_tokens>
void multiply_last_tokens(const Element* weight, int64_t d_model, const float* tokens, int64_t count, int64_t rows,
                          float* sums, int64_t sums_stride) {
  if constexpr (num_tokens > 0) {
    if (count == num_tokens) {
      multiply_rows<Element, num_tokens>(weight, d_model, tokens, rows, sums, sums_stride);
    } else {
      multiply_last_tokens<Element, num_tokens - 1>(weight, d_model, tokens, count, rows, sums, sums_stride);
    }
  }
}

// sums [num_tokens, padded E] = tokens [num_tokens, padded D] times weight [E, D]. A few weight rows at a time stay in
// the first-level cache while all tokens pass.
template <typename Element>
void multiply_tokens(const Element* weight, const headgate_router& router, const float* tokens, int64_t num_tokens,
                     float* sums) {
  const int64_t d_model = router.d_model, num_experts = router.num_experts;
  const int64_t token_stride = pad_to_lanes(d_model), sums_stride = pad_to_lanes(num_experts);
  for (int64_t e = 0; e < num_experts; e += kTallRows) {
    const int64_t rows = num_experts - e < kTallRows ? num_experts - e : kTallRows;
    int64_t t = 0;
    for (; t + kTileTokens <= num_tokens; t += kTileTokens) {
      multiply_rows<Element, kTileTokens>(weight + e * d_model, d_model, tokens + t * token_stride, rows,
                                          sums + t * sums_stride + e, sums_stride);
    }
    multiply_last_tokens<Element, kTileTokens - 1>(weight + e * d_model, d_model, tokens + t * token_stride,
                                                   num_tokens - t, rows, sums + t * sums_stride + e, sums_stride);
  }
}

// Copies `count` elements to float32, and zeros up to the padded length.
template <typename Element>
void copy_to_floats(const Element* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i < count) {
    store(to + i, load_part(from + i, count - i));
    i += kLanes;
  }
  for (; i < pad_to_lanes(count); ++i) to[i] = 0.0f;
}

// As above, from `offset` elements behind `from`.
void copy_to_floats(const void* from, int32_t dtype, int64_t offset, int64_t count, float* to) {
  if (dtype == HEADGATE_FLOAT32) {
    copy_to_floats(static_cast<const float*>(from) + offset, count, to);
  } else if (dtype == HEADGATE_FLOAT16) {
    copy_to_floats(static_cast<const Float16*>(from) + offset, count, to);
  } else {
    copy_to_floats(static_cast<const BFloat16*>(from) + offset, count, to);
  }
}

void compute_logits(const RouteCall& call, int64_t begin, int64_t end, float* tokens, float* logits) {
  const headgate_router_input& input = *call.input;
  const headgate_router& router = *call.router;
  const int64_t token_stride = pad_to_lanes(router.d_model), count = end - begin;
  for (int64_t t = 0; t < count; ++t) {
    const int64_t offset = (begin + t) * input.x_stride;
    copy_to_floats(input.x, input.x_dtype, offset, router.d_model, tokens + t * token_stride);
  }
  if (input.weight_dtype == HEADGATE_FLOAT32) {
    multiply_tokens(static_cast<const float*>(input.weight), router, tokens, count, logits);
  } else if (input.weight_dtype == HEADGATE_FLOAT16) {
    multiply_tokens(static_cast<const Float16*>(input.weight), router, tokens, count, logits);
  } else {
    multiply_tokens(static_cast<const BFloat16*>(input.weight), router, tokens, count, logits);
  }
}
