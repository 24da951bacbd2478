import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import org.ow2.authzforce.core.pdp.api.AttributeFqns;
import org.ow2.authzforce.core.pdp.api.DecisionRequest;
import org.ow2.authzforce.core.pdp.api.DecisionRequestBuilder;
import org.ow2.authzforce.core.pdp.api.value.Bags;
import org.ow2.authzforce.core.pdp.api.value.StandardDatatypes;
import org.ow2.authzforce.core.pdp.api.value.StringValue;
import org.ow2.authzforce.core.pdp.impl.BasePdpEngine;
import org.ow2.authzforce.core.pdp.impl.PdpEngineConfiguration;

/** Decisions per second and latencies of AuthzForce on one thread: CONFIGURATION ROUNDS [CATEGORY ID VALUE...]... */
public final class Bench {
  private static volatile Object sink;

  public static void main(String[] args) throws Exception {
    BasePdpEngine pdp = new BasePdpEngine(PdpEngineConfiguration.getInstance(args[0]));
    int rounds = Integer.parseInt(args[1]);
    DecisionRequestBuilder<?> builder = pdp.newRequestBuilder(-1, -1);
    for (int i = 2; i < args.length; i += 3) {
      List<StringValue> values =
          Arrays.stream(args[i + 2].split(",")).map(StringValue::new).toList();
      builder.putNamedAttributeIfAbsent(
          AttributeFqns.newInstance(args[i], Optional.empty(), args[i + 1]),
          Bags.newAttributeBag(StandardDatatypes.STRING, values));
    }
    DecisionRequest request = builder.build(false);
    String decision = pdp.evaluate(request).getDecision().value();
    if (!decision.equals("Permit")) {
      throw new IllegalStateException(decision);
    }
    run(pdp, request, 3_000_000_000L); // warm up
    double[] rates = new double[rounds];
    for (int i = 0; i < rounds; i++) {
      rates[i] = run(pdp, request, 300_000_000L);
    }
    Arrays.sort(rates);
    long[] times = new long[5_000];
    for (int i = 0; i < times.length; i++) {
      long start = System.nanoTime();
      sink = pdp.evaluate(request);
      times[i] = System.nanoTime() - start;
    }
    Arrays.sort(times);
    System.out.printf(
        "%f %f %f%n", rates[rounds / 2], times[2_500] / 1e3, times[4_950] / 1e3);
  }

  private static double run(BasePdpEngine pdp, DecisionRequest request, long nanos) {
    long start = System.nanoTime();
    long count = 0;
    while (System.nanoTime() - start < nanos) {
      for (int i = 0; i < 100; i++) {
        sink = pdp.evaluate(request);
      }
      count += 100;
    }
    return count * 1e9 / (System.nanoTime() - start);
  }
}
