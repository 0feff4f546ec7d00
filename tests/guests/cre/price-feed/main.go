// A price feed: on a schedule, or when an authorized key calls, ask several sources for a price,
// agree on the median, sign a report of it, and send the report on.
package main

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"

	"cre/sdk"
)

const (
	cron      = "cron-trigger@1.0.0"
	httpIn    = "http-trigger@1.0.0-alpha"
	httpOut   = "http-actions@1.0.0-alpha"
	consensus = "consensus@1.0.0-alpha"
	http      = "capabilities.networking.http.v1alpha."
	median    = 1
)

type config struct {
	Schedule string
	Sources  []string // each answers {"price": 97.1}
	Key      string   // the address of who may call; empty: nobody
	Report   string   // where reports are sent; empty: nowhere
	Secret   string   // the id of what the sources want as a bearer token; empty: nothing
}

var (
	asked    = sdk.Asked()
	settings config
)

func main() {
	if err := json.Unmarshal(asked.Config, &settings); err != nil {
		end(sdk.Fail("the config is not JSON: " + err.Error()))
	}
	if asked.Subscribe {
		end(subscribe())
	}
	token := secret()
	sdk.SwitchModes(sdk.Node)
	observed, err := observe(token)
	sdk.SwitchModes(sdk.DON)
	if err != "" {
		end(sdk.Fail(err))
	}
	price := agree(observed)
	report := sign(price)
	sdk.Log(fmt.Sprintf("price %v of %d sources", price, len(settings.Sources)))
	sdk.Metric(sdk.Message(nil).String(5, "price").Double(6, price).Uint(7, 2))
	if settings.Report != "" {
		send(report)
	}
	end(sdk.Value(sdk.Message(nil).Bytes(4, sdk.Message(nil).
		Bytes(1, entry("price", sdk.Message(nil).Double(11, price))).
		Bytes(1, entry("report", sdk.Text(hex.EncodeToString(sdk.Last(report, 4).Bytes)))).
		Bytes(1, entry("trigger", sdk.Message(nil).Int(7, int64(asked.ID)))))))
}

func end(int32) { os.Exit(0) }

func subscribe() int32 {
	found := []sdk.Message{sdk.Subscription(cron, "Trigger", sdk.Any(
		"capabilities.scheduler.cron.v1.Config", sdk.Message(nil).String(1, settings.Schedule)))}
	if settings.Key != "" {
		key := sdk.Message(nil).Uint(1, 1).String(2, settings.Key)
		found = append(found, sdk.Subscription(httpIn, "Trigger",
			sdk.Any(http+"Config", sdk.Message(nil).Bytes(1, key))))
	}
	return sdk.Subscribe(found...)
}

// observe is the median of what the sources say, all of them asked at once.
func observe(token string) (float64, string) {
	var ids []int32
	for n, url := range settings.Sources {
		request := sdk.Message(nil).String(1, url).String(2, "GET")
		if token != "" {
			values := sdk.Message(nil).String(1, "Bearer "+token)
			request = request.Bytes(7, entry("Authorization", values))
		}
		if err := sdk.Call(httpOut, "SendRequest", sdk.Any(http+"Request", request), int32(-1-n)); err != "" {
			return 0, err
		}
		ids = append(ids, int32(-1-n))
	}
	var prices []float64
	for _, id := range ids {
		answer, err := response(id)
		if err != "" {
			sdk.Log("a source failed: " + err)
			continue
		}
		said := struct{ Price float64 }{}
		if err := json.Unmarshal(sdk.Last(answer, 3).Bytes, &said); err != nil {
			sdk.Log("a source said no price: " + err.Error())
			continue
		}
		prices = append(prices, said.Price)
	}
	if len(prices) == 0 {
		return 0, "no source told a price"
	}
	slices.Sort(prices)
	return (prices[(len(prices)-1)/2] + prices[len(prices)/2]) / 2, ""
}

// secret is the token that the sources want, if they want one.
func secret() string {
	if settings.Secret == "" {
		return ""
	}
	if err := sdk.GetSecrets(1, [2]string{settings.Secret, ""}); err != "" {
		end(sdk.Fail(err))
	}
	answers, err := sdk.AwaitSecrets(asked.MaxResponseSize, 1)
	if err != "" {
		end(sdk.Fail(err))
	}
	said := sdk.Last(answers[1], 1).Bytes
	if refused := sdk.Last(sdk.Last(said, 2).Bytes, 4).Bytes; refused != nil {
		end(sdk.Fail(string(refused)))
	}
	return string(sdk.Last(sdk.Last(said, 1).Bytes, 4).Bytes)
}

// agree is the median of what all nodes have observed.
func agree(observed float64) float64 {
	inputs := sdk.Message(nil).
		Bytes(1, sdk.Message(nil).Double(11, observed)).
		Bytes(3, sdk.Message(nil).Uint(1, median))
	agreed := must(consensus, "Simple", sdk.Any("sdk.v1alpha.SimpleConsensusInputs", inputs), 1)
	return sdk.Last(agreed, 11).Double()
}

// sign is the report of a price, as a contract would read it: a uint256 with eight decimals.
func sign(price float64) []byte {
	word := make([]byte, 32)
	binary.BigEndian.PutUint64(word[24:], uint64(math.Round(price*1e8)))
	request := sdk.Message(nil).Bytes(1, word).String(2, "evm").String(3, "ecdsa").String(4, "keccak256")
	return must(consensus, "Report", sdk.Any("sdk.v1alpha.ReportRequest", request), 2)
}

func send(report []byte) {
	signatures := []string{}
	for _, signed := range sdk.All(report, 5) {
		signatures = append(signatures, hex.EncodeToString(sdk.Last(signed, 1).Bytes))
	}
	body, _ := json.Marshal(map[string]any{
		"report":     hex.EncodeToString(sdk.Last(report, 4).Bytes),
		"context":    hex.EncodeToString(sdk.Last(report, 3).Bytes),
		"signatures": signatures,
	})
	request := sdk.Message(nil).String(1, settings.Report).String(2, "POST").Bytes(4, body)
	sdk.SwitchModes(sdk.Node)
	must(httpOut, "SendRequest", sdk.Any(http+"Request", request), -1000)
	sdk.SwitchModes(sdk.DON)
}

// must is the message that a capability answered; the execution fails where it did not.
func must(id, method string, payload []byte, callback int32) []byte {
	if err := sdk.Call(id, method, payload, callback); err != "" {
		end(sdk.Fail(err))
	}
	answer, err := response(callback)
	if err != "" {
		end(sdk.Fail(err))
	}
	return answer
}

func response(callback int32) ([]byte, string) {
	answers, err := sdk.Await(asked.MaxResponseSize, callback)
	if err != "" {
		return nil, err
	}
	answer := answers[callback]
	if failed := sdk.Last(answer, 2).Bytes; failed != nil {
		return nil, string(failed)
	}
	return sdk.Last(sdk.Last(answer, 1).Bytes, 2).Bytes, ""
}

func entry(name string, value []byte) []byte {
	return sdk.Message(nil).String(1, name).Bytes(2, value)
}
