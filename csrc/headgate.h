/* The C ABI of Headgate's CPU kernels: pointers and sizes only. Nothing here knows Python or PyTorch, so one
 * build serves every version of both.
 *
 * Rules that hold for every function:
 *   - The caller owns every buffer and sizes it as documented; nothing is kept after the call returns.
 *   - Arrays are contiguous and row-major. Inputs and outputs never overlap.
 *   - The result is a headgate_status. On anything but HEADGATE_OK the outputs are unspecified.
 *   - No exception crosses this boundary. */
#ifndef HEADGATE_H
#define HEADGATE_H

#include <stdint.h>

#if defined(_WIN32)
#if defined(HEADGATE_BUILD)
#define HEADGATE_API __declspec(dllexport)
#else
#define HEADGATE_API __declspec(dllimport)
#endif
#else
#define HEADGATE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by one whenever a signature or a contract in this file changes. The loader refuses any other value. */
#define HEADGATE_ABI_VERSION 5

typedef enum headgate_status {
  HEADGATE_OK = 0,
  HEADGATE_OUT_OF_MEMORY = 1,
  HEADGATE_BAD_ARGUMENT = 2
} headgate_status;

/* Returns the HEADGATE_ABI_VERSION that the library was built with. */
HEADGATE_API int headgate_abi_version(void);

/* Element types. */
typedef enum headgate_dtype { HEADGATE_FLOAT32 = 0, HEADGATE_FLOAT16 = 1, HEADGATE_BFLOAT16 = 2 } headgate_dtype;

/* Instruction sets, each a superset of the one before. GENERIC is what the compiler targets by default (SSE2 on
 * x86-64, NEON on AArch64). Results of two instruction sets agree to rounding, not to the bit. */
typedef enum headgate_isa {
  HEADGATE_ISA_BEST = -1,
  HEADGATE_ISA_GENERIC = 0,
  HEADGATE_ISA_AVX2 = 1,
  HEADGATE_ISA_AVX512 = 2,
  HEADGATE_ISA_AVX512_BF16 = 3
} headgate_isa;

/* Returns the best headgate_isa of this build that this processor has. */
HEADGATE_API int headgate_best_isa(void);

/* A parallel loop of the host program: calls body(begin, end, context) for pieces of [begin, end), at most one per
 * thread, and returns 0. libtorch exports one as `torch_parallel_for`. */
typedef int (*headgate_parallel_for)(int64_t begin, int64_t end, int64_t grain_size,
                                     void (*body)(int64_t begin, int64_t end, void* context), void* context);

/* Who does the work. Results never depend on it.
 *
 *   parallel_for  the host's loop; null = threads of our own, started for this call
 *   num_threads   at most so many take part, the calling thread included; below 1 means 1 */
typedef struct headgate_threads {
  headgate_parallel_for parallel_for;
  int num_threads;
} headgate_threads;

/* Sorts slots by bucket: a stable counting sort, O(num_slots + num_buckets), one thread.
 *
 *   bucket_ids  [num_slots]        any value; an id outside [0, num_buckets) means "no bucket"
 *   order       [num_slots]   out  slot indices: bucket 0 first, then bucket 1, ..., then the slots without
 *                                  a bucket; within each of these groups in ascending slot order
 *   offsets     [num_buckets + 1]  out  bucket b is order[offsets[b] .. offsets[b + 1]); offsets[0] = 0 and
 *                                  offsets[num_buckets] = number of slots that have a bucket
 *
 * Pointers to arrays of length 0 may be null. Returns HEADGATE_BAD_ARGUMENT when a size is negative,
 * HEADGATE_OUT_OF_MEMORY when the num_buckets + 1 words of scratch cannot be had. */
HEADGATE_API int headgate_sort_slots(const int64_t* bucket_ids, int64_t num_slots, int64_t num_buckets,
                                     int64_t* order, int64_t* offsets);

/* What an expert computes between its two projections. */
typedef enum headgate_activation {
  HEADGATE_SILU = 0,
  HEADGATE_GELU = 1, /* exact, by erf */
  HEADGATE_GELU_TANH = 2,
  HEADGATE_RELU = 3
} headgate_activation;

typedef struct headgate_function {
  int activation;      /* headgate_activation */
  int is_gated;        /* hidden = act(gate) * (up + up_offset); otherwise hidden = act(up) */
  int is_interleaved;  /* rows alternate gate, up, gate, up; otherwise all of gate, then all of up */
  float clamp;         /* gate is cut at +clamp and up at +-clamp; infinity = no clamp */
  float sigmoid_slope; /* SiLU is z * sigmoid(sigmoid_slope * z) */
  float up_offset;
} headgate_function;

/* One matrix per expert, in place: element (e, row, column) is data[e * expert_stride + row * row_stride +
 * column * column_stride]. One of row_stride and column_stride must be 1: column_stride for the usual layout,
 * row_stride for a transposed one. */
typedef struct headgate_matrices {
  const void* data;
  int64_t expert_stride, row_stride, column_stride;
  const void* bias; /* [E, rows], contiguous, same type; null = none */
} headgate_matrices;

/* The experts on a plan. U is 2F where the experts are gated, else F. All floating point data is of one dtype,
 * except `row_weights`. */
typedef struct headgate_experts {
  int isa;   /* headgate_isa */
  int dtype; /* headgate_dtype */
  headgate_threads threads;
  headgate_function function;
  int64_t num_tokens, d_model, d_ff, num_experts; /* T, D, F, E */
  int64_t num_rows;                               /* R, rows of zero-compute experts included */
  const void* x;                                  /* [T, D], rows x_stride apart */
  int64_t x_stride;
  const int64_t* token_of_row;   /* [R], rows sorted by expert */
  const int64_t* expert_offsets; /* [E + 1]; rows from expert_offsets[E] on return their input */
  const int64_t* row_order;      /* [R], rows sorted by token, then by slot */
  const int64_t* token_offsets;  /* [T + 1], where each token's rows begin in row_order */
  const float* row_weights;      /* [R]; by slot where slot_of_row is not null */
  const int64_t* slot_of_row;    /* [R], row r weighs row_weights[slot_of_row[r]]; null = row_weights[r] */
  headgate_matrices up;          /* U x D each */
  headgate_matrices down;        /* D x F each */
} headgate_experts;

/* Runs each expert on its rows and adds up each token's weighted outputs:
 *
 *   y[t] = sum over the rows r of token t, in the order of row_order, of row_weights[r] * expert(x[t])
 *
 *   y         [T, D]  out  contiguous; zero for a token without rows
 *   up_rows   [R', U] out  what the first projection gave (R' = expert_offsets[E]), for the backward; null = not
 *                          wanted
 *
 * Sums are float32 and their order does not depend on the number of threads, nor on the other tokens: a token's
 * output has the same bits alone and in any batch. Half precision rounds (and overflows) after each projection, as
 * it does where these are separate operations. Working memory, beside the outputs: at most R' * F and 768 * D elements
 * (of 2 bytes where bfloat16 is multiplied as such, else 4), 256 * R' bytes and 16 MiB; it is freed before the call
 * returns. */
HEADGATE_API int headgate_experts_forward(const headgate_experts* experts, void* y, void* up_rows);

/* Which experts each token chose.
 *
 *   expert_ids       [T, K]  int64, or int32 where ids_are_32_bits; an id outside [0, E) has no row
 *   combine_weights  [T, K]  of the headgate_dtype weights_dtype
 *   top_k            K, at least 1 */
typedef struct headgate_choice {
  const void* expert_ids;
  int ids_are_32_bits;
  const void* combine_weights;
  int weights_dtype;
  int64_t top_k;
} headgate_choice;

/* Makes the plan of a choice and runs headgate_experts_forward on it. Of `experts`, the plan's fields (num_rows,
 * token_of_row, expert_offsets, row_order, token_offsets, row_weights, slot_of_row) are not read. Working memory: also
 * 48 bytes for each slot. */
HEADGATE_API int headgate_experts_on_choice(const headgate_experts* experts, const headgate_choice* choice, void* y);

/* The experts' gradients, from that of y. All but `row_weights` are of the experts' dtype and contiguous; outputs that
 * are null are not computed. An expert without rows gets zeros.
 *
 *   dy           [T, D]    rows dy_stride apart
 *   up_rows      [R', U]   what headgate_experts_forward gave
 *   dx           [T, D]    out
 *   row_weights  [R]       out
 *   up           [E, U, D] out
 *   up_bias      [E, U]    out
 *   down         [E, D, F] out
 *   down_bias    [E, D]    out */
typedef struct headgate_gradients {
  const void* dy;
  int64_t dy_stride;
  const void* up_rows;
  void* dx;
  float* row_weights;
  void* up;
  void* up_bias;
  void* down;
  void* down_bias;
} headgate_gradients;

/* Computes the gradients of headgate_experts_forward, which saw the same `experts`. Sums are float32 and their order
 * depends on neither the number of threads nor, but for the gradients of the weights, on the other tokens. No gradient
 * passes where the function cuts a value. Working memory, beside the outputs: at most R' * U elements, 3 * D + 6 * F
 * elements for each row of one expert, R' * (F / 32 + 256) bytes and 16 MiB. */
HEADGATE_API int headgate_experts_backward(const headgate_experts* experts, const headgate_gradients* gradients);

/* Reads memory as fast as it can be read, each thread a contiguous part: timed by the caller, a probe of the bandwidth.
 *
 *   data      [num_bytes]  a multiple of 8; far more than the caches hold, and written before (pages that were never
 *                          written are all one page)
 *   isa       a headgate_isa
 *   checksum  out  sum of all 64-bit words modulo 2^64, which no thread count and no instruction set changes
 *
 * Returns HEADGATE_BAD_ARGUMENT when the size is negative or no multiple of 8, or this processor lacks the instruction
 * set; HEADGATE_OUT_OF_MEMORY when the few bytes of scratch cannot be had. */
HEADGATE_API int headgate_probe_read(const void* data, int64_t num_bytes, int isa, const headgate_threads* threads,
                                     uint64_t* checksum);

/* Multiplies and adds in registers, in independent chains: timed by the caller, a probe of the peak arithmetic speed.
 *
 *   num_multiplies  how many multiply-adds at least
 *   dtype           a headgate_dtype: bfloat16 uses pair products of AVX512_BF16 where `isa` has them; everything
 *                   else is float32, to which narrower operands are widened
 *   isa             a headgate_isa
 *   num_done        out  how many multiply-adds there were: num_multiplies rounded up to whole tasks
 *
 * Returns HEADGATE_BAD_ARGUMENT when the number is negative, the dtype unknown, or this processor lacks the instruction
 * set; HEADGATE_OUT_OF_MEMORY when the few bytes of scratch cannot be had. */
HEADGATE_API int headgate_probe_multiply(int64_t num_multiplies, int dtype, int isa, const headgate_threads* threads,
                                         int64_t* num_done);
/* Scores from a token's logits z: exp(z) / sum exp(z); 1 / (1 + exp(-z)); sqrt(log(1 + exp(z))); z. */
typedef enum headgate_score {
  HEADGATE_SOFTMAX = 0,
  HEADGATE_SIGMOID = 1,
  HEADGATE_SQRT_SOFTPLUS = 2,
  HEADGATE_LINEAR = 3
} headgate_score;

/* Where scores are rounded to the tokens' dtype: nowhere; before and after the score function (and between softplus
 * and its root); after it. */
typedef enum headgate_rounding {
  HEADGATE_ROUND_NOTHING = 0,
  HEADGATE_ROUND_ALL = 1,
  HEADGATE_ROUND_RESULT = 2
} headgate_rounding;

/* Combine weights: the chosen scores; divided by their norm; the softmax of the chosen logits. */
typedef enum headgate_normalise {
  HEADGATE_NORMALISE_NONE = 0,
  HEADGATE_NORMALISE_SUM = 1,
  HEADGATE_NORMALISE_SOFTMAX = 2
} headgate_normalise;

/* A router: sizes and formula.
 *
 *   num_experts        E, zero-compute experts included, at least 1
 *   top_k              K, 1 to E
 *   score              a headgate_score
 *   score_rounding     a headgate_rounding
 *   round_logits       whether logits are rounded to the tokens' dtype
 *   select_on_logits   whether the best logits are chosen, not the best scores
 *   num_groups         divides E; 0 = no groups. Groups are equal runs of expert ids
 *   num_kept           groups that a token may use
 *   group_counted      a group is as good as its best so many experts together
 *   mask_zero          experts of other groups get 0 in place of -inf, and weigh 0
 *   normalise          a headgate_normalise
 *   clamp_norm         epsilon is the norm's lower bound; otherwise it is added
 *   norm_order         p of the norm, positive; 1 = the sum, infinity = the largest
 *   epsilon, scale     weight = scale * score / norm; a norm of 0 divides by 1 */
typedef struct headgate_router {
  int64_t d_model, num_experts, top_k;
  int32_t score, score_rounding, round_logits, select_on_logits;
  int64_t num_groups, num_kept, group_counted;
  int32_t mask_zero, normalise, clamp_norm;
  float norm_order, epsilon, scale;
} headgate_router;

/* What a router reads. Its dtypes are headgate_dtypes.
 *
 *   x               [num_tokens, d_model]; token t begins x_stride elements after token t - 1
 *   weight          [num_experts, d_model]
 *   bias            [num_experts] in weight_dtype, added to the logits; null = none
 *   selection_bias  [num_experts] float32, added to what is ranked; null = none */
typedef struct headgate_router_input {
  const void* x;
  int64_t num_tokens, x_stride;
  int32_t x_dtype, weight_dtype;
  const void* weight;
  const void* bias;
  const float* selection_bias;
} headgate_router_input;

/* What a router decides, and the rows that follow. T = num_tokens, N = T * K slots, one row each.
 *
 *   logits, scores   [T, E]
 *   expert_ids       [T, K]   best first: distinct and in range whatever the logits are. Equal values rank by expert
 *                             id, a NaN ranks as -inf
 *   combine_weights  [T, K]
 *   slot_of_row      [N]      slots by expert, then in ascending order
 *   token_of_row     [N]      slot_of_row / K
 *   expert_offsets   [E + 1]  expert e has the rows expert_offsets[e] .. expert_offsets[e + 1]
 *   row_order        [N]      the row of each slot
 *   token_offsets    [T + 1]  t * K
 *   drop_reason      [T, K]   0 */
typedef struct headgate_routing {
  float* logits;
  float* scores;
  int64_t* expert_ids;
  float* combine_weights;
  int64_t* slot_of_row;
  int64_t* token_of_row;
  int64_t* expert_offsets;
  int64_t* row_order;
  int64_t* token_offsets;
  uint8_t* drop_reason;
} headgate_routing;

/* Routes tokens: logits = x weight^T + bias, scores, choice, weights and plan. Products and sums are float32. What a
 * token gets depends on that token alone, to the bit.
 *
 *   isa  a headgate_isa
 *
 * Pointers to arrays of length 0 may be null. Returns HEADGATE_BAD_ARGUMENT for a size or an option out of range and
 * for an instruction set that this processor lacks, HEADGATE_OUT_OF_MEMORY when there is no room for scratch: about
 * num_threads * 24 tokens in float32. */
HEADGATE_API int headgate_route(const headgate_router* router, const headgate_router_input* input,
                                const headgate_routing* routing, const headgate_threads* threads, int isa);

/* Routes tokens and runs the experts on the decision, which is not kept: a layer's inference in one call. The router's
 * experts from experts->num_experts on are zero-compute. Threads and isa are those of `experts`, whose plan's fields (see
 * headgate_experts_on_choice) are not read. Both read the same tokens, which may differ in dtype.
 *
 *   y  [T, D]  out  as of headgate_experts_forward */
HEADGATE_API int headgate_layer_forward(const headgate_router* router, const headgate_router_input* input,
                                        const headgate_experts* experts, void* y);

#ifdef __cplusplus
}
#endif

#endif
