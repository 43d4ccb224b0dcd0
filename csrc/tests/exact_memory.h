// Memory of exactly the bytes that a contract asks for, each array on its own, so that a sanitizer sees the first byte
// beyond.
#ifndef HEADGATE_TESTS_EXACT_MEMORY_H
#define HEADGATE_TESTS_EXACT_MEMORY_H

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace fuzz {

class ExactMemory {
 public:
  ExactMemory() = default;

  // `misalignment` bytes come before the data.
  explicit ExactMemory(std::int64_t num_bytes, std::int64_t misalignment = 0)
      : memory_(std::malloc(static_cast<std::size_t>(num_bytes + misalignment))),
        num_bytes_(num_bytes),
        misalignment_(misalignment) {
    if (!memory_ && num_bytes + misalignment > 0) throw std::bad_alloc();
  }

  void* data() const { return memory_ ? static_cast<char*>(memory_.get()) + misalignment_ : nullptr; }
  std::int64_t num_bytes() const { return num_bytes_; }

 private:
  struct Free {
    void operator()(void* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<void, Free> memory_;
  std::int64_t num_bytes_ = 0, misalignment_ = 0;
};

template <typename Value>
class ExactArray {
 public:
  ExactArray() = default;
  explicit ExactArray(std::int64_t size) : memory_(size * static_cast<std::int64_t>(sizeof(Value))), size_(size) {}

  Value& operator[](std::int64_t index) const { return data()[index]; }
  Value* data() const { return static_cast<Value*>(memory_.data()); }
  std::int64_t size() const { return size_; }

 private:
  ExactMemory memory_;
  std::int64_t size_ = 0;
};

}  // namespace fuzz

#endif
