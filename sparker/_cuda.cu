// Fits on a GPU. `fit` is the whole fit of `sparker._solvers.NewtonSolver`: one thread block follows one problem along
// its widths, so that no step waits for the host. `terms` is a pass between two matrix products, for many features.
// `sparker._solvers` is the readable definition, `sparker._kernels` that of the sums; functions here have the names of
// what they repeat.
//
// Compiled for one case: REAL (dtype of the rows), M kernels, D features, COMPETITION, LOSS, THREADS to a block; `fit`
// only where FUSED says that a thread has room for it. Every
// thread adds up its own rows, a stretch of them in REAL and the stretches in double, and the threads' sums are added
// in a fixed order: the same input gives the same bits. The small M x M algebra is the work of one thread.

#define TILE 32  // rows of a thread to a stretch
#define LONGEST_STEP 2.0
#define PATIENCE 3
#define MOST_PIVOTS 200
#define SWEEPS 30
#define TOGETHER 8  // sums that are added up over the threads at a time

// Order of the sums over the rows, as in `sparker._kernels.Evaluation`; of the Hessian the lower triangle. Those of the
// centres come last, since `terms` leaves them to a matrix product.
#define GRADIENT 1
#define HESSIAN (GRADIENT + M)
#define CURVATURE (HESSIAN + M * (M + 1) / 2)
#define CENTER (CURVATURE + M)
#define N_SUMS (CENTER + M * D)

// What a row adds to value, gradient, Hessian and curvatures (`sparker._kernels.value_and_gradient`); returns the part
// of the loss and leaves in `slopes` residual x df/dmu_i, less the factor (x - mu_i) / sigma^2.
__device__ inline double add_row(const REAL* distances, const REAL* amplitudes, REAL scale, REAL weight, REAL count,
                                 REAL* sums, REAL* slopes) {
  REAL phi[M], gate[M], share = 0, f = 0;
  for (int i = 0; i < M; ++i) {
    // Never 0, or the gate would be 0 / 0 far from all kernels; f is as good as 0 there, and the row adds nothing.
    const REAL log_kernel = distances[i] * scale, lowest = sizeof(REAL) == 4 ? REAL(-80) : REAL(-700);
    phi[i] = EXP(log_kernel > lowest ? log_kernel : lowest);
    share += phi[i];
  }
  for (int i = 0; i < M; ++i) {
    gate[i] = COMPETITION ? phi[i] / share : REAL(1);
    phi[i] *= gate[i];
    f += amplitudes[i] * phi[i];
  }
  const REAL excess = EXPM1(f);
#if LOSS == 0  // "np"
  const REAL curving = weight * (excess + 1), residual = curving - count, loss = weight * excess - count * f;
#else
  const REAL half = REAL(0.5), odds = excess + 1, rest = 1 / (1 + odds), s = odds * rest, slope_of_s = s * rest;
#if LOSS == 1  // "bce"
  const REAL curving = (weight + count) * slope_of_s, residual = weight * s - count * rest;
  const REAL loss = (weight + count) * LOG1P(half * excess) - count * f;
#else  // "mse"
  const REAL curving = 2 * (weight + count) * slope_of_s * slope_of_s;
  const REAL residual = 2 * slope_of_s * (weight * s - count * rest);
  const REAL loss = (s - half) * (weight * (s + half) - count * (rest + half));
#endif
#endif
  REAL* hessian = sums + HESSIAN;
  for (int i = 0; i < M; ++i) {
    const REAL slope = COMPETITION ? 2 * amplitudes[i] * phi[i] - gate[i] * f : amplitudes[i] * phi[i];
    sums[GRADIENT + i] += residual * phi[i];
    for (int k = 0; k <= i; ++k) *hessian++ += curving * phi[i] * phi[k];
    sums[CURVATURE + i] += curving * slope * slope * distances[i];
    slopes[i] = residual * slope;
  }
  return double(loss);
}

// Sums of all threads, for each of n numbers of a thread; the result is in `sums`.
__device__ inline void add_threads(const double* of_thread, int n, double* partial, double* sums) {
  for (int first = 0; first < n; first += TOGETHER) {
    const int size = n - first < TOGETHER ? n - first : TOGETHER;
    for (int s = 0; s < size; ++s) partial[s * THREADS + threadIdx.x] = of_thread[first + s];
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
      if (threadIdx.x < half)
        for (int s = 0; s < size; ++s) partial[s * THREADS + threadIdx.x] += partial[s * THREADS + threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0)
      for (int s = 0; s < size; ++s) sums[first + s] = partial[s * THREADS];
    __syncthreads();
  }
}

#if FUSED

struct Point {  // kernels, and the objective there
  double amplitudes[M], centers[M * D];
  double loss, value, gradient[M], hessian[M * M], center_gradient[M * D], curvature[M];
};

struct Problem {
  const REAL* rows;     // (D, n), one feature after the other
  const REAL* boxes;    // (n_boxes, 2, D), smallest and largest value of each feature in BOX rows
  const REAL* weights;  // (n,)
  const REAL* counts;   // (n,)
  long long n;
  double alpha, width;
  REAL farthest;  // squared distance at which a kernel is 0 to the resolution of REAL
};

struct Shared {  // of the block
  Point at, trial;
  double sums[N_SUMS], partial[TOGETHER * THREADS];
  double step[M], shift[M * D], newton[M * M], axes[M * M], masked[M * (M + 1)], scratch[5 * M];
  bool flag;
};

__device__ inline bool in_reach(const REAL* box, const REAL* centers, REAL farthest) {
  for (int i = 0; i < M; ++i) {
    REAL distance = 0;
    for (int j = 0; j < D; ++j) {
      const REAL below = box[j] - centers[i * D + j], above = centers[i * D + j] - box[D + j];
      const REAL offset = below > above ? below : above;
      distance += offset > 0 ? offset * offset : REAL(0);
    }
    if (distance <= farthest) return true;
  }
  return false;
}

// Objective and derivatives at the kernels of `to`, by all threads: one pass over the rows. See `sparker._objective.Objective`.
__device__ void evaluate(const Problem& problem, Point& to, Shared& shared) {
  REAL amplitudes[M], centers[M * D];
  for (int i = 0; i < M; ++i) amplitudes[i] = REAL(to.amplitudes[i]);
  for (int k = 0; k < M * D; ++k) centers[k] = REAL(to.centers[k]);
  double total[N_SUMS];
  REAL sums[N_SUMS];
  for (int s = 0; s < N_SUMS; ++s) total[s] = 0, sums[s] = 0;
  const REAL scale = REAL(-0.5 / (problem.width * problem.width));
  int in_stretch = 0;
  for (long long start = 0; start < problem.n; start += BOX) {
    if (!in_reach(problem.boxes + start / BOX * 2 * D, centers, problem.farthest)) continue;
    const long long end = start + BOX < problem.n ? start + BOX : problem.n;
    for (long long row = start + threadIdx.x; row < end; row += THREADS) {
      REAL offsets[M * D], distances[M], slopes[M];
      for (int i = 0; i < M; ++i) distances[i] = 0;
      for (int k = 0; k < M * D; ++k) {
        offsets[k] = problem.rows[k % D * problem.n + row] - centers[k];
        distances[k / D] += offsets[k] * offsets[k];
      }
      total[0] += add_row(distances, amplitudes, scale, problem.weights[row], problem.counts[row], sums, slopes);
      for (int k = 0; k < M * D; ++k) sums[CENTER + k] += slopes[k / D] * offsets[k];
      if (++in_stretch < TILE) continue;
      for (int s = 1; s < N_SUMS; ++s) total[s] += double(sums[s]), sums[s] = 0;
      in_stretch = 0;
    }
  }
  for (int s = 1; s < N_SUMS; ++s) total[s] += double(sums[s]);
  add_threads(total, N_SUMS, shared.partial, shared.sums);
  if (threadIdx.x == 0) {
    const double squared = problem.width * problem.width, *hessian = shared.sums + HESSIAN;
    to.loss = to.value = shared.sums[0];
    for (int i = 0; i < M; ++i) {
      to.value += problem.alpha * to.amplitudes[i] * to.amplitudes[i];
      to.gradient[i] = shared.sums[GRADIENT + i] + 2 * problem.alpha * to.amplitudes[i];
      for (int k = 0; k <= i; ++k) to.hessian[i * M + k] = to.hessian[k * M + i] = *hessian++;
      to.hessian[i * M + i] += 2 * problem.alpha;
      to.curvature[i] = shared.sums[CURVATURE + i] / (squared * squared);
    }
    for (int k = 0; k < M * D; ++k) to.center_gradient[k] = shared.sums[CENTER + k] / squared;
  }
  __syncthreads();
}

__device__ inline bool finite(const Point& at) {
  double sum = at.value;  // a value that is not finite makes the difference to itself nan
  for (int i = 0; i < M; ++i) sum += fabs(at.gradient[i]);
  for (int k = 0; k < M * M; ++k) sum += fabs(at.hessian[k]);
  return sum - sum == 0;
}

// Eigenvalues of the symmetric matrix `a`, which is overwritten, and its eigenvectors as columns: cyclic Jacobi.
__device__ inline void eigh(double* a, double* values, double* axes) {
  for (int k = 0; k < M * M; ++k) axes[k] = k / M == k % M;
  for (int sweep = 0; sweep < SWEEPS; ++sweep) {
    double off = 0, all = 0;
    for (int k = 0; k < M * M; ++k) {
      all += a[k] * a[k];
      if (k / M != k % M) off += a[k] * a[k];
    }
    if (off <= 1e-32 * all) break;
    for (int p = 0; p < M; ++p)
      for (int q = p + 1; q < M; ++q) {
        if (a[p * M + q] == 0) continue;
        const double theta = (a[q * M + q] - a[p * M + p]) / (2 * a[p * M + q]);
        const double t = (theta < 0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1));
        const double c = 1 / sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < M; ++k) {
          const double kp = a[k * M + p], kq = a[k * M + q];
          a[k * M + p] = c * kp - s * kq, a[k * M + q] = s * kp + c * kq;
        }
        for (int k = 0; k < M; ++k) {
          const double pk = a[p * M + k], qk = a[q * M + k], kp = axes[k * M + p], kq = axes[k * M + q];
          a[p * M + k] = c * pk - s * qk, a[q * M + k] = s * pk + c * qk;
          axes[k * M + p] = c * kp - s * kq, axes[k * M + q] = s * kp + c * kq;
        }
      }
  }
  for (int i = 0; i < M; ++i) values[i] = a[i * M + i];
}

// Minimum of the quadratic with the entries held at an edge, where `held` is not 0; Gauss with pivots on (M, M + 1).
__device__ inline void hold(const double* hessian, const double* gradient, const double* lower, const double* upper,
                            const signed char* held, double* a, double* step) {
  for (int i = 0; i < M; ++i) {
    const double edge = held[i] < 0 ? lower[i] : upper[i];
    double slope = gradient[i];
    for (int k = 0; k < M; ++k) {
      a[i * (M + 1) + k] = held[i] || held[k] ? double(i == k) : hessian[i * M + k];
      if (held[k]) slope += hessian[i * M + k] * (held[k] < 0 ? lower[k] : upper[k]);
    }
    a[i * (M + 1) + M] = held[i] ? edge : -slope;
  }
  for (int p = 0; p < M; ++p) {
    int pivot = p;
    for (int i = p + 1; i < M; ++i)
      if (fabs(a[i * (M + 1) + p]) > fabs(a[pivot * (M + 1) + p])) pivot = i;
    for (int k = p; k <= M; ++k) {
      const double swap = a[p * (M + 1) + k];
      a[p * (M + 1) + k] = a[pivot * (M + 1) + k], a[pivot * (M + 1) + k] = swap;
    }
    for (int i = p + 1; i < M; ++i) {
      const double factor = a[i * (M + 1) + p] / a[p * (M + 1) + p];
      for (int k = p; k <= M; ++k) a[i * (M + 1) + k] -= factor * a[p * (M + 1) + k];
    }
  }
  for (int p = M - 1; p >= 0; --p) {
    step[p] = a[p * (M + 1) + M];
    for (int k = p + 1; k < M; ++k) step[p] -= a[p * (M + 1) + k] * step[k];
    step[p] /= a[p * (M + 1) + p];
  }
}

// See `sparker._solvers.minimize_in_box`.
__device__ inline void minimize_in_box(const double* hessian, const double* gradient, const double* lower,
                                       const double* upper, double* masked, double* step) {
  signed char held[M], over[M];
  bool wrong[M];
  double largest = 0;
  for (int i = 0; i < M; ++i) {
    held[i] = 0;
    largest = fabs(gradient[i]) > largest ? fabs(gradient[i]) : largest;
  }
  int fewest = M + 1, patience = PATIENCE;
  for (int pivots = 0; pivots < MOST_PIVOTS; ++pivots) {
    hold(hessian, gradient, lower, upper, held, masked, step);
    int count = 0, last = 0;
    for (int i = 0; i < M; ++i) {
      double slope = gradient[i];
      for (int k = 0; k < M; ++k) slope += hessian[i * M + k] * step[k];
      over[i] = (step[i] > upper[i] + 1e-12) - (step[i] < lower[i] - 1e-12);
      wrong[i] = (over[i] && !held[i]) || held[i] * slope > 1e-12 * largest;
      if (wrong[i]) ++count, last = i;
    }
    if (!count) break;
    patience = count < fewest ? PATIENCE : patience - 1;
    fewest = count < fewest ? count : fewest;
    for (int i = 0; i < M; ++i)
      if (wrong[i] && (patience >= 0 || i == last)) held[i] = held[i] ? 0 : over[i];
  }
  for (int i = 0; i < M; ++i) step[i] = step[i] < lower[i] ? lower[i] : step[i] > upper[i] ? upper[i] : step[i];
}

// Newton step of the amplitudes within their bounds: `NewtonSolver._newton`, by one thread.
__device__ inline void newton(Shared& shared, double max_amplitude) {
  const Point& at = shared.at;
  double *values = shared.scratch, *lower = values + M, *upper = lower + M, largest = 0;
  for (int k = 0; k < M * M; ++k) shared.newton[k] = at.hessian[k];
  eigh(shared.newton, values, shared.axes);
  for (int i = 0; i < M; ++i) {
    values[i] = fabs(values[i]);
    largest = values[i] > largest ? values[i] : largest;
  }
  for (int i = 0; i < M; ++i) {
    const double least = 1e-9 + 1e-9 * largest;
    values[i] = values[i] > least ? values[i] : least;
    const double down = -max_amplitude - at.amplitudes[i], up = max_amplitude - at.amplitudes[i];
    lower[i] = down > -LONGEST_STEP ? down : -LONGEST_STEP;
    upper[i] = up < LONGEST_STEP ? up : LONGEST_STEP;
  }
  for (int i = 0; i < M; ++i)
    for (int k = 0; k < M; ++k) {
      double sum = 0;
      for (int l = 0; l < M; ++l) sum += shared.axes[i * M + l] * values[l] * shared.axes[k * M + l];
      shared.newton[i * M + k] = sum;
    }
  minimize_in_box(shared.newton, at.gradient, lower, upper, shared.masked, shared.step);
}

// Step of the centres: `NewtonSolver._shift`, by one thread.
__device__ inline void shift(Shared& shared, double reach) {
  const Point& at = shared.at;
  for (int i = 0; i < M; ++i) {
    double length = 0;
    for (int j = 0; j < D; ++j) length += at.center_gradient[i * D + j] * at.center_gradient[i * D + j];
    length = sqrt(length);
    const double curvature = reach * fabs(at.curvature[i]) / D;
    double divisor = length > curvature ? length : curvature;
    divisor = divisor > 1e-150 ? divisor : 1e-150;
    for (int j = 0; j < D; ++j) shared.shift[i * D + j] = -at.center_gradient[i * D + j] * reach / divisor;
  }
}

// The longest of a few fractions of a step that does not make the objective worse: `NewtonSolver._descend`. Returns
// whether one was taken.
__device__ bool descend(const Problem& problem, Shared& shared, double max_amplitude) {
  const double fractions[] = {1.0, 0.3, 0.1, 0.03};
  for (int k = 0; k < 4; ++k) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < M; ++i) {
        const double a = shared.at.amplitudes[i] + fractions[k] * shared.step[i];
        shared.trial.amplitudes[i] = a < -max_amplitude ? -max_amplitude : a > max_amplitude ? max_amplitude : a;
      }
      for (int c = 0; c < M * D; ++c) shared.trial.centers[c] = shared.at.centers[c] + fractions[k] * shared.shift[c];
    }
    __syncthreads();
    evaluate(problem, shared.trial, shared);
    if (threadIdx.x == 0) {
      shared.flag = shared.trial.value <= shared.at.value && finite(shared.trial);
      if (shared.flag) shared.at = shared.trial;
    }
    __syncthreads();
    const bool better = shared.flag;
    __syncthreads();
    if (better) return true;
  }
  return false;
}

// Amplitudes at fixed centres to the end: `NewtonSolver._polish`. Returns whether they have converged.
__device__ bool polish(const Problem& problem, Shared& shared, double max_amplitude, double tol, int max_polish) {
  double* promise = shared.scratch + 3 * M;
  for (int k = 0; k < max_polish; ++k) {
    if (threadIdx.x == 0) {
      newton(shared, max_amplitude);
      *promise = 0;
      for (int i = 0; i < M; ++i) *promise -= shared.step[i] * shared.at.gradient[i];
      for (int c = 0; c < M * D; ++c) shared.shift[c] = 0;
    }
    __syncthreads();
    const double gain = *promise;
    if (gain < tol) return true;
    if (!descend(problem, shared, max_amplitude)) return gain < 100 * tol;
  }
  return false;
}

// `sparker._solvers._follow` for the problem of this block.
extern "C" __global__ void fit(const REAL* rows, const REAL* boxes, long long n, const REAL* weights,
                               const REAL* counts, const int* toys, const double* starts, const double* schedule,
                               int n_widths, int n_steps, double alpha, double max_amplitude, double tol, double reach,
                               int max_polish, double log_negligible, double* losses, double* amplitudes,
                               double* centers, double* curve, unsigned char* converged) {
  __shared__ Shared shared;
  const long long p = blockIdx.x;
  const double* widths = schedule + p * n_widths * n_steps;
  Problem problem = {rows, boxes, weights + toys[p] * n, counts + toys[p] * n, n, alpha, 0, 0};
  if (threadIdx.x == 0) {
    for (int i = 0; i < M; ++i) shared.at.amplitudes[i] = 0;
    for (int c = 0; c < M * D; ++c) shared.at.centers[c] = starts[p * M * D + c];
  }
  __syncthreads();
  for (int j = 0; j < n_widths; ++j) {
    const double* of_row = widths + j * n_steps;
    const bool constant = of_row[0] == of_row[n_steps - 1];
    for (int k = 0; k < n_steps; ++k) {
      if (of_row[k] != problem.width) {
        problem.width = of_row[k];
        problem.farthest = REAL(-2 * log_negligible * problem.width * problem.width);
        evaluate(problem, shared.at, shared);
      }
      if (!finite(shared.at)) break;
      const double before = shared.at.value;
      if (threadIdx.x == 0) newton(shared, max_amplitude), shift(shared, reach * problem.width);
      __syncthreads();
      descend(problem, shared, max_amplitude);
      if (threadIdx.x == 0) curve[(p * n_widths + j) * n_steps + k] = shared.at.value;
      if (constant && !(before - shared.at.value >= tol)) break;
    }
    bool done = false;
    if (finite(shared.at)) done = polish(problem, shared, max_amplitude, tol, max_polish);
    if (threadIdx.x == 0) {
      const long long at = p * n_widths + j;
      losses[at] = shared.at.loss;
      for (int i = 0; i < M; ++i) amplitudes[at * M + i] = shared.at.amplitudes[i];
      for (int c = 0; c < M * D; ++c) centers[at * M * D + c] = shared.at.centers[c];
      converged[at] = done;
    }
    __syncthreads();
  }
}

// One step of the same solver between two passes, for problems whose centres stay in memory: `d` features, M kernels, a
// module with D = 1. A block moves one problem on: it takes the objective at the trial point, keeps the point or not, and
// makes the next trial. Where a problem stands is in `state`: what was evaluated, row and step of the schedule, fraction
// of the step, steps of polishing.
enum { AT_WIDTH, STEP, POLISH, DONE };

struct Memory {  // of all problems
  double *amplitudes, *centers, *loss, *value, *gradient, *hessian, *center_gradient, *curvature;
  double *trial_amplitudes, *trial_centers, *step, *shift, *widths, *before, *promise;
  int* state;
};

struct Record {  // see `sparker._solvers.Paths`
  double *losses, *amplitudes, *centers, *curve;
  unsigned char* converged;
};

__device__ inline void load_point(const Memory& memory, long long p, Shared& shared) {
  for (int i = 0; i < M; ++i) {
    shared.at.amplitudes[i] = memory.amplitudes[p * M + i];
    shared.at.gradient[i] = memory.gradient[p * M + i];
  }
  for (int k = 0; k < M * M; ++k) shared.at.hessian[k] = memory.hessian[p * M * M + k];
}

extern "C" __global__ void advance_all(int d, const double* schedule, int n_widths, int n_steps, double alpha,
                                   double max_amplitude, double tol, double reach, int max_polish, const double* sums,
                                   const double* center_sums, double* amplitudes, double* centers, double* loss,
                                   double* value, double* gradient, double* hessian, double* center_gradient,
                                   double* curvature, double* trial_amplitudes, double* trial_centers, double* step,
                                   double* shift, double* current, double* before, double* promise, int* states,
                                   double* losses, double* final_amplitudes, double* final_centers, double* curve,
                                   unsigned char* converged) {
  const Memory memory = {amplitudes, centers, loss, value, gradient, hessian, center_gradient, curvature,
                         trial_amplitudes, trial_centers, step, shift, current, before, promise, states};
  const Record record = {losses, final_amplitudes, final_centers, curve, converged};
  __shared__ Shared shared;
  __shared__ int phase, row, at_step, fraction, polished, accepted, start, finished, is_converged;
  const double fractions[] = {1.0, 0.3, 0.1, 0.03};
  const long long p = blockIdx.x, size = (long long)M * d;
  int* state = memory.state + 5 * p;
  if (state[0] == DONE) return;
  const double width = memory.widths[p], squared = width * width;
  const double* widths = schedule + p * n_widths * n_steps;
  if (threadIdx.x == 0) {
    phase = state[0], row = state[1], at_step = state[2], fraction = state[3], polished = state[4];
    const double *of_trial = sums + p * CENTER, *hessian = of_trial + HESSIAN;
    Point& trial = shared.trial;
    trial.loss = trial.value = of_trial[0];
    for (int i = 0; i < M; ++i) {
      const double a = memory.trial_amplitudes[p * M + i];
      trial.value += alpha * a * a;
      trial.gradient[i] = of_trial[GRADIENT + i] + 2 * alpha * a;
      for (int k = 0; k <= i; ++k) trial.hessian[i * M + k] = trial.hessian[k * M + i] = *hessian++;
      trial.hessian[i * M + i] += 2 * alpha;
      trial.curvature[i] = of_trial[CURVATURE + i] / (squared * squared);
    }
    accepted = phase == AT_WIDTH || (trial.value <= memory.value[p] && finite(trial));
    if (accepted) {
      memory.loss[p] = trial.loss, memory.value[p] = trial.value;
      for (int i = 0; i < M; ++i) {
        memory.amplitudes[p * M + i] = memory.trial_amplitudes[p * M + i];
        memory.gradient[p * M + i] = trial.gradient[i], memory.curvature[p * M + i] = trial.curvature[i];
      }
      for (int k = 0; k < M * M; ++k) memory.hessian[p * M * M + k] = trial.hessian[k];
    }
  }
  __syncthreads();
  if (accepted)
    for (long long c = threadIdx.x; c < size; c += THREADS) {
      memory.centers[p * size + c] = memory.trial_centers[p * size + c];
      memory.center_gradient[p * size + c] = center_sums[p * size + c] / squared;
    }
  if (threadIdx.x == 0) {
    start = finished = is_converged = 0;
    bool polish = false;
    double new_width = width;
    load_point(memory, p, shared);
    shared.at.value = memory.value[p];
    if (phase == AT_WIDTH) {
      start = finite(shared.at), finished = !start;
    } else if (!accepted && fraction < 3) {
      ++fraction;
    } else if (phase == STEP) {
      record.curve[(p * n_widths + row) * n_steps + at_step] = memory.value[p];
      const double* of_row = widths + row * n_steps;
      const bool constant = of_row[0] == of_row[n_steps - 1];
      if (at_step == n_steps - 1 || (constant && !(memory.before[p] - memory.value[p] >= tol)))
        polish = true, polished = 0;
      else
        start = 1, new_width = of_row[++at_step];
    } else if (accepted) {
      polish = ++polished < max_polish, finished = !polish;
    } else {
      finished = 1, is_converged = memory.promise[p] < 100 * tol;
    }
    if (polish) {
      newton(shared, max_amplitude);
      double gain = 0;
      for (int i = 0; i < M; ++i) {
        gain -= shared.step[i] * shared.at.gradient[i];
        memory.step[p * M + i] = shared.step[i];
      }
      memory.promise[p] = gain, fraction = 0, phase = POLISH;
      if (gain < tol) finished = is_converged = 1;
    }
    if (finished) {
      record.losses[p * n_widths + row] = memory.loss[p], record.converged[p * n_widths + row] = is_converged;
      for (int i = 0; i < M; ++i) record.amplitudes[(p * n_widths + row) * M + i] = memory.amplitudes[p * M + i];
    }
    state[4] = row;  // the row that has ended, for all threads
    if (finished && ++row < n_widths) start = 1, at_step = 0, new_width = widths[row * n_steps];
    if (finished && row == n_widths) phase = DONE;
    if (start && new_width != width) {
      memory.widths[p] = new_width, phase = AT_WIDTH, start = 0, fraction = 4;  // the same kernels again
    } else if (start) {
      newton(shared, max_amplitude);
      for (int i = 0; i < M; ++i) memory.step[p * M + i] = shared.step[i];
      memory.before[p] = memory.value[p], fraction = 0, phase = STEP;
    }
  }
  __syncthreads();
  if (finished)
    for (long long c = threadIdx.x; c < size; c += THREADS)
      record.centers[(p * n_widths + state[4]) * size + c] = memory.centers[p * size + c];
  if (start)
    for (int i = threadIdx.x; i < M; i += THREADS) {  // `NewtonSolver._shift`
      const double* of_kernel = memory.center_gradient + p * size + (long long)i * d;
      double length = 0;
      for (int j = 0; j < d; ++j) length += of_kernel[j] * of_kernel[j];
      length = sqrt(length);
      const double longest = reach * width, curving = longest * fabs(memory.curvature[p * M + i]) / d;
      double divisor = length > curving ? length : curving;
      divisor = divisor > 1e-150 ? divisor : 1e-150;
      for (int j = 0; j < d; ++j) memory.shift[p * size + (long long)i * d + j] = -of_kernel[j] * longest / divisor;
    }
  __syncthreads();
  const double part = fraction < 4 ? fractions[fraction] : 0;
  for (int i = threadIdx.x; i < M; i += THREADS) {
    double a = memory.amplitudes[p * M + i] + (part ? part * memory.step[p * M + i] : 0);
    if (part) a = a < -max_amplitude ? -max_amplitude : a > max_amplitude ? max_amplitude : a;
    memory.trial_amplitudes[p * M + i] = a;
  }
  const bool moves = part && phase == STEP;
  for (long long c = threadIdx.x; c < size; c += THREADS)
    memory.trial_centers[p * size + c] = memory.centers[p * size + c] + (moves ? part * memory.shift[p * size + c] : 0);
  __syncthreads();
  if (threadIdx.x == 0) {
    state[0] = phase, state[1] = row, state[2] = at_step, state[3] = fraction < 4 ? fraction : 0, state[4] = polished;
  }
}

#endif  // FUSED

// Between the products centres x rows and slopes x rows of one block of rows: from squared norms and `products` (P, M,
// n) of a block that begins at row `first` of the pool to `slopes` (P, M, n), which take their place, and the sums of
// each chunk of rows (P, n_chunks, CENTER). Grid: problems, chunks.
extern "C" __global__ void terms(REAL* products, const REAL* norms, const REAL* center_norms, long long n,
                                 const REAL* weights, const REAL* counts, long long n_pool, long long first,
                                 const int* toys, const REAL* amplitudes, const double* widths, double* sums) {
  __shared__ double partial[TOGETHER * THREADS], found[CENTER];
  const long long p = blockIdx.x, start = (long long)blockIdx.y * BOX, end = start + BOX < n ? start + BOX : n;
  const REAL *of_reference = weights + toys[p] * n_pool + first, *of_data = counts + toys[p] * n_pool + first;
  const REAL scale = REAL(-0.5 / (widths[p] * widths[p]));
  double total[CENTER];
  REAL part[CENTER], own[M];
  for (int s = 0; s < CENTER; ++s) total[s] = 0, part[s] = 0;
  for (int i = 0; i < M; ++i) own[i] = amplitudes[p * M + i];
  for (long long row = start + threadIdx.x; row < end; row += THREADS) {
    REAL distances[M], slopes[M];
    for (int i = 0; i < M; ++i) {
      const REAL squared = norms[row] - 2 * products[(p * M + i) * n + row] + center_norms[p * M + i];
      distances[i] = squared > 0 ? squared : REAL(0);
    }
    total[0] += add_row(distances, own, scale, of_reference[row], of_data[row], part, slopes);
    for (int i = 0; i < M; ++i) products[(p * M + i) * n + row] = slopes[i];
  }
  for (int s = 1; s < CENTER; ++s) total[s] = double(part[s]);
  add_threads(total, CENTER, partial, found);
  for (int s = threadIdx.x; s < CENTER; s += THREADS) sums[(p * gridDim.y + blockIdx.y) * CENTER + s] = found[s];
}
