// The gradients of the experts: plans the work, then runs its phases.
//
// For a row r of token t with weight w, from dy[t]:
//   gradient of the hidden units  down^T dy[t], times w, through the nonlinearity: that of gate and up
//   gradient of down              sum over rows of dy[t] (w hidden)^T
//   gradient of up                sum over rows of (gradient of gate and up) x[t]^T
//   gradient of w                 hidden . (down^T dy[t]) + bias . dy[t]
//   gradient of x[t]              sum over its rows of up^T (gradient of gate and up)
#include <algorithm>
#include <deque>
#include <new>

#include "../cpu.h"
#include "layout.h"

namespace headgate {
namespace {

// What a group of experts needs while its turn lasts; pointers into one buffer that all groups use.
struct GroupMemory {
  char* next;
  void* take(std::int64_t bytes) {
    void* const taken = next;
    next += round_up(bytes, 64);
    return taken;
  }
};

class Backward {
 public:
  Backward(const headgate_experts& e, const ExpertsKernels& kernels, const headgate_gradients& g)
      : e_(e), g_(g), kernels_(kernels), packing_(kernels.packing), width_(up_width(e)) {}

  int run() {
    const std::int64_t group_rows = std::max<std::int64_t>(budget_of(e_) / bytes_per_row(), 1);
    geometry_ = lay_out(e_, packing_, group_rows, true);
    place_experts();
    const std::int64_t num_computed = e_.expert_offsets[e_.num_experts];
    const std::int64_t group_bytes = most_panel_rows_ * bytes_per_row() + 16 * 64;
    const std::int64_t slab = slab_width(e_, group_bytes);
    const std::int64_t slab_bytes = num_computed * slab * std::int64_t{sizeof(float)};
    Projection hidden = hidden_projection(geometry_.groups.front());
    const Buffer shared = allocate(std::max(group_bytes, g_.dx == nullptr ? 0 : slab_bytes));
    const Buffer parts = allocate(num_computed * hidden.tasks_per_piece * std::int64_t{sizeof(float)});
    const Buffer packed = allocate(g_.dx == nullptr ? 0 : geometry_.packed_rows * packed_row_bytes(width_, packing_));
    shared_ = static_cast<char*>(shared.get());
    parts_ = static_cast<float*>(parts.get());
    packed_up_gradients_ = packed.get();
    for (const Group& group : geometry_.groups) add_group(group);
    if (g_.dx != nullptr) {
      for (std::int64_t begin = 0; begin < e_.d_model; begin += slab) {
        add_slab(begin, std::min(slab, e_.d_model - begin));
      }
    }
    if (g_.row_weights != nullptr) {
      row_weights_ = {&e_, &g_, parts_, hidden.tasks_per_piece};
      add(kernels_.row_weights, &row_weights_, divide_up(e_.num_rows, kRowsPerTask));
    }
    return run_phases(e_.threads, phases_.data(), static_cast<int>(phases_.size()));
  }

 private:
  bool wants_weights() const {
    return g_.up != nullptr || g_.down != nullptr || g_.up_bias != nullptr || g_.down_bias != nullptr;
  }

  std::int64_t panel_row_bytes(std::int64_t columns) const {
    return round_up(columns, packing_.lanes()) * packing_.element_bytes;
  }

  // Rows of dy in packed form, gradients and hidden units as rows, and four sets of panels.
  std::int64_t bytes_per_row() const {
    const std::int64_t rows = packed_row_bytes(e_.d_model, packing_) + (width_ + e_.d_ff) * packing_.element_bytes;
    const std::int64_t panels = 2 * panel_row_bytes(e_.d_model) + panel_row_bytes(width_) + panel_row_bytes(e_.d_ff);
    return rows + (wants_weights() ? panels : 0);
  }

  void place_experts() {
    rows_.resize(static_cast<std::size_t>(e_.num_experts));
    for (const Group& group : geometry_.groups) {
      std::int64_t panel_row = 0;
      for (std::int64_t expert = group.first_expert; expert < group.end_expert; ++expert) {
        const std::int64_t begin = e_.expert_offsets[expert], size = e_.expert_offsets[expert + 1] - begin;
        rows_[static_cast<std::size_t>(expert)] = {begin, size, panel_row};
        panel_row += round_up(size, packing_.pair());
      }
      most_panel_rows_ = std::max({most_panel_rows_, panel_row, group.packed_rows});
    }
  }

  void add(ExpertsKernels::Run run, const void* job, std::int64_t num_tasks) {
    phases_.push_back({run, job, num_tasks});
  }

  Projection hidden_projection(const Group& group) const {
    Projection p{pieces_of(geometry_, group, true), transpose(e_.down), e_.d_model, 0, e_.d_ff, 1, 1, 0, nullptr, 0, 0};
    set_tasks(p);  // In tasks that depend on nothing else: the gradients of the row weights are summed by them.
    return p;
  }

  void add_panels(const Pieces& pieces, const RowSource& source, std::int64_t columns, void* panels, bool is_stored) {
    panels_.push_back({pieces, rows_.data(), source, columns, panels});
    add(is_stored ? kernels_.panels : kernels_.panels_elements, &panels_.back(), pieces.size * kStripsPerPiece);
  }

  void add_group(const Group& group) {
    GroupMemory memory{shared_};
    const std::int64_t num_rows = most_panel_rows_, first_row = e_.expert_offsets[group.first_expert];
    void* const packed_dy = memory.take(num_rows * packed_row_bytes(e_.d_model, packing_));
    void* const up_gradients = memory.take(num_rows * width_ * packing_.element_bytes);
    void* const hidden = memory.take(num_rows * e_.d_ff * packing_.element_bytes);
    const RowSource dy{g_.dy, g_.dy_stride, e_.token_of_row, 0};
    const RowSource up_gradient_rows{up_gradients, width_, nullptr, first_row};

    packs_.push_back({pieces_of(geometry_, group, true), dy, e_.d_model, packed_dy});
    add(kernels_.pack, &packs_.back(), group.num_blocks);
    hiddens_.push_back({&e_, hidden_projection(group), g_.up_rows, first_row, up_gradients, hidden, parts_});
    hiddens_.back().projection.packed = packed_dy;
    add(kernels_.hidden, &hiddens_.back(), count_tasks(hiddens_.back().projection));
    if (g_.dx != nullptr) {
      packs_.push_back({pieces_of(geometry_, group, false), up_gradient_rows, width_, packed_up_gradients_});
      add(kernels_.pack_elements, &packs_.back(), group.num_blocks);
    }
    if (!wants_weights()) return;
    const RowSource x{e_.x, e_.x_stride, e_.token_of_row, 0}, hidden_rows{hidden, e_.d_ff, nullptr, first_row};
    WeightsJob weights{&e_, &g_, rows_.data(), group.first_expert, group.end_expert - group.first_expert,
                       memory.take(num_rows * panel_row_bytes(e_.d_model)),
                       memory.take(num_rows * panel_row_bytes(e_.d_model)),
                       memory.take(num_rows * panel_row_bytes(e_.d_ff)),
                       memory.take(num_rows * panel_row_bytes(width_)), up_gradient_rows};
    const Pieces pieces = pieces_of(geometry_, group, true);
    add_panels(pieces, x, e_.d_model, const_cast<void*>(weights.x), true);
    add_panels(pieces, dy, e_.d_model, const_cast<void*>(weights.dy), true);
    add_panels(pieces, hidden_rows, e_.d_ff, const_cast<void*>(weights.hidden), false);
    add_panels(pieces, up_gradient_rows, width_, const_cast<void*>(weights.up_gradients), false);
    weights_.push_back(weights);
    const std::int64_t tasks = divide_up(e_.d_model, kWeightRowsPerTask) + divide_up(width_, kWeightRowsPerTask);
    add(kernels_.weights, &weights_.back(), weights.num_experts * tasks);
  }

  void add_slab(std::int64_t begin, std::int64_t size) {
    float* const outputs = reinterpret_cast<float*>(shared_);
    Projection p{all_pieces(geometry_), transpose(e_.up), width_, begin, size, 1, 1, 0, packed_up_gradients_, 0, 0};
    set_tasks(p, e_.threads.num_threads);
    row_jobs_.push_back({p, 0, outputs});
    add(kernels_.rows, &row_jobs_.back(), count_tasks(p));
    combines_.push_back({&e_, outputs, false, g_.dy, g_.dy_stride, begin, size, g_.dx, tokens_per_task(size)});
    add(kernels_.combine, &combines_.back(), divide_up(e_.num_tokens, tokens_per_task(size)));
  }

  const headgate_experts& e_;
  const headgate_gradients& g_;
  const ExpertsKernels& kernels_;
  const Packing& packing_;
  std::int64_t width_;
  Geometry geometry_;
  std::vector<ExpertRows> rows_;
  std::int64_t most_panel_rows_ = 0;
  char* shared_ = nullptr;
  float* parts_ = nullptr;
  void* packed_up_gradients_ = nullptr;
  // Phases keep the addresses of their jobs.
  std::deque<PackJob> packs_;
  std::deque<HiddenJob> hiddens_;
  std::deque<PanelJob> panels_;
  std::deque<WeightsJob> weights_;
  std::deque<RowsJob> row_jobs_;
  std::deque<CombineJob> combines_;
  RowWeightsJob row_weights_{};
  std::vector<Phase> phases_;
};

}  // namespace
}  // namespace headgate

int headgate_experts_backward(const headgate_experts* experts, const headgate_gradients* gradients) {
  using namespace headgate;
  if (experts == nullptr || gradients == nullptr || !is_valid(*experts)) return HEADGATE_BAD_ARGUMENT;
  const int isa = resolve_isa(experts->isa);
  const ExpertsKernels* const kernels = isa < 0 ? nullptr : find_experts_kernels(isa, experts->dtype);
  if (kernels == nullptr) return HEADGATE_BAD_ARGUMENT;
  try {
    std::vector<float> weights;
    const headgate_experts weighed = weigh_rows(*experts, weights);
    return Backward(weighed, *kernels, *gradients).run();
  } catch (const std::bad_alloc&) {
    return HEADGATE_OUT_OF_MEMORY;
  }
}
