// The experts' nonlinearities on arrays, written so that compilers vectorise them for any instruction set. Error: a
// few units in the last place of float32. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_ACTIVATION_H
#define HEADGATE_EXPERTS_ACTIVATION_H

#include "elements.h"
#include "headgate.h"

namespace headgate {
namespace {

// exp(x) for x <= 0, and 0 below -87, where float32 runs out of normal numbers.
inline float exp_of_negative(float x) {
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float whole = shifted - 12582912.0f;
  const float rest = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
  // Chebyshev fit of exp on +-log(2) / 2, largest relative error 1e-7.
  float p = 0.00139485835f;
  p = p * rest + 0.00837513059f;
  p = p * rest + 0.0416662171f;
  p = p * rest + 0.166664153f;
  p = p * rest + 0.5f;
  p = p * rest + 1.0f;
  p = p * rest + 1.0f;
  const float result = p * float_of((bits_of(shifted) << 23) + 0x3f800000u);
  return x < -87.0f ? 0.0f : result;
}

inline float magnitude(float x) { return float_of(bits_of(x) & 0x7fffffffu); }

inline float sigmoid(float x) {
  const float e = exp_of_negative(-magnitude(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

inline float erf(float x) {
  const float t = magnitude(x);
  // Chebyshev fits: of erf(x) / x in x^2 below 1, of log(erfc) in x from 0.92 to 4, where erf is 1 to rounding.
  const float z = x * x;
  float p = 8.39269633e-05f;
  p = p * z - 8.14850617e-4f;
  p = p * z + 5.20159164e-3f;
  p = p * z - 0.0268596467f;
  p = p * z + 0.112837002f;
  p = p * z - 0.376126349f;
  p = p * z + 1.12837923f;
  const float u = t > 4.0f ? 4.0f : t;
  float q = 1.6131018583e-06f;
  q = q * u - 4.557118518e-05f;
  q = q * u + 5.926017184e-4f;
  q = q * u - 4.739417694e-3f;
  q = q * u + 0.02636238001f;
  q = q * u - 0.109974049f;
  q = q * u - 0.6319416165f;
  q = q * u - 1.130164027f;
  q = q * u + 3.025418264e-4f;
  const float tail = 1.0f - exp_of_negative(q);
  return t < 0.921875f ? x * p : (x < 0.0f ? -tail : tail);
}

constexpr float kRootHalf = 0.707106781f;
constexpr float kRootTwoOverPi = 0.797884561f;
constexpr float kInverseRootTwoPi = 0.398942280f;
constexpr float kGeluCubic = 0.044715f;

struct Nonlinearity {
  int activation;
  float slope;
};

// act(x)
template <int kActivation>
inline float activate(float x, float slope) {
  switch (kActivation) {
    case HEADGATE_SILU:
      return x * sigmoid(slope * x);
    case HEADGATE_GELU:
      return x * (0.5f + 0.5f * erf(x * kRootHalf));
    case HEADGATE_GELU_TANH:
      // (1 + tanh(u)) / 2 = sigmoid(2 u)
      return x * sigmoid(2.0f * kRootTwoOverPi * (x + kGeluCubic * x * x * x));
    default:
      return x > 0.0f ? x : (x != x ? x : 0.0f);
  }
}

// act'(x)
template <int kActivation>
inline float derivative(float x, float slope) {
  switch (kActivation) {
    case HEADGATE_SILU: {
      const float s = sigmoid(slope * x);
      return s + slope * x * s * (1.0f - s);
    }
    case HEADGATE_GELU:
      return 0.5f + 0.5f * erf(x * kRootHalf) + x * kInverseRootTwoPi * exp_of_negative(-0.5f * x * x);
    case HEADGATE_GELU_TANH: {
      const float s = sigmoid(2.0f * kRootTwoOverPi * (x + kGeluCubic * x * x * x));
      return s + x * s * (1.0f - s) * 2.0f * kRootTwoOverPi * (1.0f + 3.0f * kGeluCubic * x * x);
    }
    default:
      return x > 0.0f ? 1.0f : 0.0f;
  }
}

// What follows the first projection, value by value: hidden = act(min(gate, limit)) * (clip(up, limit) + offset).
template <int kActivation>
inline void activate_gated(const float* gate, const float* up, float* hidden, int size, const headgate_function& f) {
  const float limit = f.clamp, slope = f.sigmoid_slope, offset = f.up_offset;
  for (int i = 0; i < size; ++i) {
    const float g = gate[i] > limit ? limit : gate[i];
    const float capped = up[i] > limit ? limit : up[i];
    const float u = capped < -limit ? -limit : capped;
    hidden[i] = activate<kActivation>(g, slope) * (u + offset);
  }
}

template <int kActivation>
inline void activate_plain(const float* up, float* hidden, int size, const headgate_function& f) {
  const float slope = f.sigmoid_slope;
  for (int i = 0; i < size; ++i) hidden[i] = activate<kActivation>(up[i], slope);
}

// The gradients of gate and up, given that of the hidden units; and the hidden units again. A cut value passes none on.
template <int kActivation>
inline void differentiate_gated(const float* gate, const float* up, const float* d_hidden, float* d_gate, float* d_up,
                                float* hidden, int size, const headgate_function& f) {
  const float limit = f.clamp, slope = f.sigmoid_slope, offset = f.up_offset;
  for (int i = 0; i < size; ++i) {
    const float g = gate[i] > limit ? limit : gate[i];
    const float capped = up[i] > limit ? limit : up[i];
    const float u = capped < -limit ? -limit : capped;
    const float activated = activate<kActivation>(g, slope);
    hidden[i] = activated * (u + offset);
    const float through_gate = d_hidden[i] * (u + offset) * derivative<kActivation>(g, slope);
    d_gate[i] = gate[i] > limit ? 0.0f : through_gate;
    d_up[i] = magnitude(up[i]) > limit ? 0.0f : d_hidden[i] * activated;
  }
}

template <int kActivation>
inline void differentiate_plain(const float* up, const float* d_hidden, float* d_up, float* hidden, int size,
                                const headgate_function& f) {
  const float slope = f.sigmoid_slope;
  for (int i = 0; i < size; ++i) {
    hidden[i] = activate<kActivation>(up[i], slope);
    d_up[i] = d_hidden[i] * derivative<kActivation>(up[i], slope);
  }
}

// Runs `call` with the function's activation as a constant.
#define HEADGATE_FOR_ACTIVATION(activation, call) \
  switch (activation) {                           \
    case HEADGATE_SILU:                           \
      call(HEADGATE_SILU);                        \
      break;                                      \
    case HEADGATE_GELU:                           \
      call(HEADGATE_GELU);                        \
      break;                                      \
    case HEADGATE_GELU_TANH:                      \
      call(HEADGATE_GELU_TANH);                   \
      break;                                      \
    default:                                      \
      call(HEADGATE_RELU);                        \
  }

// hidden = f(gate, up), or f(up) where the experts have no gate.
inline void apply_function(const float* gate, const float* up, float* hidden, int size, const headgate_function& f) {
  if (f.is_gated) {
#define HEADGATE_CALL(activation) activate_gated<activation>(gate, up, hidden, size, f)
    HEADGATE_FOR_ACTIVATION(f.activation, HEADGATE_CALL)
#undef HEADGATE_CALL
  } else {
#define HEADGATE_CALL(activation) activate_plain<activation>(up, hidden, size, f)
    HEADGATE_FOR_ACTIVATION(f.activation, HEADGATE_CALL)
#undef HEADGATE_CALL
  }
}

// The gradient of apply_function; without a gate, that of `up` is in `d_gate`.
inline void differentiate_function(const float* gate, const float* up, const float* d_hidden, float* d_gate,
                                   float* d_up, float* hidden, int size, const headgate_function& f) {
  if (f.is_gated) {
#define HEADGATE_CALL(activation) differentiate_gated<activation>(gate, up, d_hidden, d_gate, d_up, hidden, size, f)
    HEADGATE_FOR_ACTIVATION(f.activation, HEADGATE_CALL)
#undef HEADGATE_CALL
  } else {
#define HEADGATE_CALL(activation) differentiate_plain<activation>(up, d_hidden, d_gate, hidden, size, f)
    HEADGATE_FOR_ACTIVATION(f.activation, HEADGATE_CALL)
#undef HEADGATE_CALL
  }
}

}  // namespace
}  // namespace headgate

#endif
