//! Bottleneck adapters.

use flametune_peft::BottleneckConfig;

use crate::tiny::WIDTH;

const BLOCKS: usize = 2;

/// Down and up with their biases, in both blocks.
fn params(bottleneck: usize) -> usize {
    BLOCKS * (2 * WIDTH * bottleneck + bottleneck + WIDTH)
}

fn narrow(config: BottleneckConfig) -> BottleneckConfig {
    BottleneckConfig {
        reduction_factor: 2.0,
        ..config
    }
}

fn houlsby() -> BottleneckConfig {
    narrow(BottleneckConfig::houlsby())
}
adapter_suite!(unmergeable houlsby_bottleneck, houlsby, params(WIDTH / 2));

fn pfeiffer() -> BottleneckConfig {
    narrow(BottleneckConfig::pfeiffer())
}
adapter_suite!(unmergeable pfeiffer_bottleneck, pfeiffer, params(WIDTH / 2));

fn parallel() -> BottleneckConfig {
    BottleneckConfig::parallel()
}
adapter_suite!(unmergeable parallel_bottleneck, parallel, params(WIDTH / 2));
