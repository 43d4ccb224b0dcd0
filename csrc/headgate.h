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
#define HEADGATE_ABI_VERSION 1

typedef enum headgate_status {
  HEADGATE_OK = 0,
  HEADGATE_OUT_OF_MEMORY = 1,
  HEADGATE_BAD_ARGUMENT = 2
} headgate_status;

/* Returns the HEADGATE_ABI_VERSION that the library was built with. */
HEADGATE_API int headgate_abi_version(void);

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

#ifdef __cplusplus
}
#endif

#endif
