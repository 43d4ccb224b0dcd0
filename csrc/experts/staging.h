// Weight tiles that the multipliers can't read in place (another type, transposed, or inputs that don't fill the last
// 16 bytes) are copied, a few kilobytes at a time, into the form that they can. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_STAGING_H
#define HEADGATE_EXPERTS_STAGING_H

#include "elements.h"
#include "product.h"

namespace headgate {
namespace {

// to[r * to_stride + k] = from[r * row_stride + k], 0 beyond the given rows and inputs.
template <class To, class S>
void copy_rows(const S* from, std::int64_t row_stride, std::int64_t num_rows, std::int64_t num_inputs, To* to,
               std::int64_t to_stride, std::int64_t all_rows) {
  for (std::int64_t r = 0; r < all_rows; ++r) {
    const S* const source = from + r * row_stride;
    To* const target = to + r * to_stride;
    const std::int64_t size = r < num_rows ? num_inputs : 0;
    for (std::int64_t k = 0; k < size; ++k) target[k] = convert<To>(source[k]);
    for (std::int64_t k = size; k < to_stride; ++k) target[k] = To{};
  }
}

// to[r * to_stride + k] = from[k * column_stride + r * row_step], 0 beyond the given rows and inputs.
template <class Isa, class S>
void copy_transposed(const S* from, std::int64_t column_stride, std::int64_t num_rows, std::int64_t num_inputs,
                     typename Isa::Element* to, std::int64_t to_stride, std::int64_t all_rows) {
  using To = typename Isa::Element;
  std::int64_t rows_done = 0;
  if constexpr (Isa::kCanTranspose && sizeof(S) == 2 && sizeof(To) == 2) {
    for (; rows_done + 32 <= num_rows; rows_done += 32) {
      std::int64_t k = 0;
      for (; k + 8 <= num_inputs; k += 8) {
        Isa::transpose(from + k * column_stride + rows_done, column_stride, to + rows_done * to_stride + k, to_stride);
      }
      for (; k < to_stride; ++k) {
        for (std::int64_t r = rows_done; r < rows_done + 32; ++r) {
          to[r * to_stride + k] = k < num_inputs ? convert<To>(from[k * column_stride + r]) : To{};
        }
      }
    }
  }
  for (std::int64_t k = 0; k < to_stride; ++k) {
    const std::int64_t size = k < num_inputs ? num_rows : rows_done;
    for (std::int64_t r = rows_done; r < size; ++r) to[r * to_stride + k] = convert<To>(from[k * column_stride + r]);
    for (std::int64_t r = size; r < all_rows; ++r) to[r * to_stride + k] = To{};
  }
}

}  // namespace
}  // namespace headgate

#endif
